package validate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Helm is too large for these tests, so they read what "make chart" has rendered with it.
var update = flag.Bool("update", false, "record of which chart testdata/chart was rendered")

// charts lists the examples of the chart.
var charts = []string{"base", "ess", "production"}

// A rendered is what the chart makes of an example.
type rendered struct {
	*cluster
	rules  []prometheusRule
	routes []httpRoute
	texts  map[string][]byte // each object as JSON, by kind and name
}

// A prometheusRule is the kind of the Prometheus operator, as far as Lethe uses it.
type prometheusRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	} `json:"spec"`
}

// An httpRoute is the kind of the Gateway API, as far as Lethe uses it.
type httpRoute struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		ParentRefs []struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
		} `json:"parentRefs"`
		Hostnames []string `json:"hostnames"`
		Rules     []struct {
			Matches []struct {
				Method string `json:"method"`
				Path   struct {
					Type  string `json:"type"`
					Value string `json:"value"`
				} `json:"path"`
			} `json:"matches"`
			BackendRefs []struct {
				Name string `json:"name"`
				Port int    `json:"port"`
			} `json:"backendRefs"`
		} `json:"rules"`
	} `json:"spec"`
}

// chart reads what the chart makes of an example. It adds the Secrets that the pods name,
// which the chart leaves to the operator.
func chart(t *testing.T, name string) *rendered {
	t.Helper()
	r := &rendered{cluster: &cluster{custom: map[string]map[string]any{}}, texts: map[string][]byte{}}
	for document := range strings.SplitSeq("\n"+page(t, "deploy/validate/testdata/chart/"+name+".yaml"), "\n---\n") {
		text := []byte(asJSON(t, document))
		var object metav1.PartialObjectMetadata
		require.NoError(t, json.UnmarshalCaseSensitivePreserveInts(text, &object))
		if object.Kind == "" {
			continue
		}
		require.Equal(t, "lethe", object.Namespace, object.Name)
		r.texts[object.Kind+" "+object.Name] = text
		switch object.Kind {
		case "PrometheusRule":
			decode(t, &r.rules, text)
		case "HTTPRoute":
			decode(t, &r.routes, text)
		default:
			r.add(t, object.APIVersion+" "+object.Kind, text)
		}
	}
	secrets := map[string]map[string][]byte{}
	for _, p := range r.pods {
		for _, volume := range p.spec.Volumes {
			if volume.Secret == nil {
				continue
			}
			if secrets[volume.Secret.SecretName] == nil {
				secrets[volume.Secret.SecretName] = map[string][]byte{}
			}
			for _, item := range volume.Secret.Items {
				text := "REPLACE"
				if item.Key == "synapse-redis-url" {
					text = "redis://127.0.0.1:1/0"
				}
				secrets[volume.Secret.SecretName][item.Key] = []byte(text)
			}
		}
	}
	for name, data := range secrets {
		r.secrets = append(r.secrets, corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data})
	}
	return r
}

// asJSON returns a document of YAML as JSON.
func asJSON(t *testing.T, document string) string {
	t.Helper()
	var node yaml.Node
	decoder := yaml.NewDecoder(strings.NewReader(document))
	if err := decoder.Decode(&node); err != nil {
		return "{}" // a document of comments only
	}
	text, err := yaml.NewRNode(&node).MarshalJSON()
	require.NoError(t, err)
	return string(text)
}

// TestChartIsRendered fails if testdata/chart was rendered of another chart.
func TestChartIsRendered(t *testing.T) {
	sum := sha256.New()
	folder := filepath.Join(root, "deploy/helm")
	var names []string
	for _, pattern := range []string{"*", "*/*"} {
		found, err := filepath.Glob(filepath.Join(folder, pattern))
		require.NoError(t, err)
		names = append(names, found...)
	}
	slices.Sort(names)
	count := 0
	for _, name := range names {
		if info, err := os.Stat(name); err != nil || info.IsDir() {
			require.NoError(t, err)
			continue
		}
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		count++
		fmt.Fprintf(sum, "%s %d\n%s", strings.TrimPrefix(name, folder), len(text), text)
	}
	require.Greater(t, count, 10)
	const path = "testdata/chart/sum"
	got := hex.EncodeToString(sum.Sum(nil)) + "\n"
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "the chart has changed: run make chart")

	examples, err := filepath.Glob(filepath.Join(folder, "examples/*.yaml"))
	require.NoError(t, err)
	require.Len(t, examples, len(charts))
}

// TestChartIsTheBase holds what the chart makes of examples/base.yaml against the
// kustomize base.
func TestChartIsTheBase(t *testing.T) {
	t.Parallel()
	base := map[string]any{}
	for kind, text := range kustomizedTexts(t, filepath.Join(root, "deploy/kubernetes/base")) {
		if !strings.HasPrefix(kind, "Secret ") && !strings.HasPrefix(kind, "Namespace ") {
			base[kind] = normal(t, text)
		}
	}
	got := map[string]any{}
	for kind, text := range chart(t, "base").texts {
		got[kind] = normal(t, text)
	}
	// The hook of Helm needs an account and settings before the others exist.
	require.Equal(t, got["ConfigMap lethe"].(map[string]any)["data"], got["ConfigMap lethe-migrate"].(map[string]any)["data"])
	delete(got, "ConfigMap lethe-migrate")
	require.Contains(t, got, "ServiceAccount lethe-migrate")
	delete(got, "ServiceAccount lethe-migrate")
	spec := got["Job lethe-migrate"].(map[string]any)["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
	require.Equal(t, "lethe-migrate", spec["serviceAccountName"])
	spec["serviceAccountName"] = "lethe-tool"
	settings := spec["volumes"].([]any)[0].(map[string]any)["configMap"].(map[string]any)
	require.Equal(t, "lethe-migrate", settings["name"])
	settings["name"] = "lethe"

	require.ElementsMatch(t, slices.Collect(maps.Keys(base)), slices.Collect(maps.Keys(got)))
	for kind, object := range base {
		require.Equal(t, object, got[kind], kind)
	}
}

// kustomizedTexts builds a folder and returns each object as JSON, by kind and name.
func kustomizedTexts(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	require.NoError(t, err)
	texts := map[string][]byte{}
	for _, resource := range built.Resources() {
		text, err := resource.MarshalJSON()
		require.NoError(t, err)
		name := resource.GetName()
		if hash.MatchString(name) && (resource.GetKind() == "ConfigMap" || resource.GetKind() == "Secret") {
			name = hash.FindStringSubmatch(name)[1]
		}
		texts[resource.GetKind()+" "+name] = text
	}
	return texts
}

// hash matches what kustomize appends to the name of a ConfigMap or a Secret.
var hash = regexp.MustCompile(`^(lethe(?:-[a-z]+)?)-[a-z0-9]{10}$`)

// normal returns an object without what only one of kustomize and Helm adds.
func normal(t *testing.T, text []byte) any {
	t.Helper()
	var object map[string]any
	require.NoError(t, json.UnmarshalCaseSensitivePreserveInts(text, &object))
	var clean func(any) any
	clean = func(value any) any {
		switch v := value.(type) {
		case map[string]any:
			for _, key := range []string{
				"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart",
				// All pods of a release are those of Lethe.
				"app.kubernetes.io/part-of", "annotations", "imagePullPolicy",
			} {
				delete(v, key)
			}
			for key, inner := range v {
				v[key] = clean(inner)
				if name, ok := inner.(string); ok && hash.MatchString(name) {
					v[key] = hash.FindStringSubmatch(name)[1]
				}
				if labels, ok := v[key].(map[string]any); ok && key == "labels" && len(labels) == 1 && labels["app.kubernetes.io/name"] != nil {
					delete(v, key)
				}
			}
			if object, ok := v["labels"].(map[string]any); ok && len(object) == 0 {
				delete(v, "labels")
			}
			if data, ok := v["lethe.yaml"].(string); ok {
				var settings map[string]any
				require.NoError(t, yaml.Unmarshal([]byte(data), &settings))
				v["lethe.yaml"] = settings
			}
		case []any:
			for i := range v {
				v[i] = clean(v[i])
			}
			slices.SortStableFunc(v, func(a, b any) int {
				// The order of variables does not matter.
				x, _ := a.(map[string]any)
				y, _ := b.(map[string]any)
				if x["value"] == nil || y["value"] == nil {
					return 0
				}
				return strings.Compare(fmt.Sprint(x["name"]), fmt.Sprint(y["name"]))
			})
		}
		return value
	}
	clean(object)
	if object["kind"] == "ServiceAccount" || object["kind"] == "NetworkPolicy" {
		delete(object["metadata"].(map[string]any), "labels") // nothing selects these
	}
	// What selects all pods of Lethe does so by the one label or by the other.
	if selector := object["spec"]; object["kind"] == "NetworkPolicy" && object["metadata"].(map[string]any)["name"] == "lethe-nothing" {
		selector.(map[string]any)["podSelector"] = nil
	}
	return object
}

// TestChartsFollowTheRestrictedProfile tests the pods of all examples.
func TestChartsFollowTheRestrictedProfile(t *testing.T) {
	t.Parallel()
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	for _, name := range charts {
		r := chart(t, name)
		require.NotEmpty(t, r.pods)
		for _, p := range r.pods {
			level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
			for _, result := range evaluator.EvaluatePod(level, &p.meta, &p.spec) {
				require.True(t, result.Allowed, "%s: %s: %s", p.of, result.ForbiddenReason, result.ForbiddenDetail)
			}
			require.True(t, *p.container(t).SecurityContext.ReadOnlyRootFilesystem, p.of)
			require.True(t, slices.ContainsFunc(r.accounts, func(a corev1.ServiceAccount) bool { return a.Name == p.spec.ServiceAccountName }), p.of)
		}
	}
}

// TestChartsGiveValidSettings loads the settings of each pod of all examples.
func TestChartsGiveValidSettings(t *testing.T) {
	t.Parallel()
	for _, name := range charts {
		r := chart(t, name)
		for _, p := range r.pods {
			environment, files := given(t, r.cluster, p)
			settings, err := load(t, p.program(t), environment, replaced(files))
			require.NoError(t, err, "%s: %s", name, p.of)
			beside := name != "base" && (p.component == "worker" || p.component == "doctor")
			require.Equal(t, beside, settings.Homeserver.ASToken != "", "%s: %s", name, p.of)
			require.Equal(t, beside, settings.Homeserver.RedisURL != "", "%s: %s", name, p.of)
			if p.component == "migrate" {
				require.Empty(t, settings.Redis.URL, p.of)
			}
		}
	}
}

// TestChartMigratesFirst tests that the schema is migrated by a hook that has what it needs.
func TestChartMigratesFirst(t *testing.T) {
	t.Parallel()
	r := chart(t, "production")
	weights := map[string]string{}
	for _, kind := range []string{"Job lethe-migrate", "ConfigMap lethe-migrate", "ServiceAccount lethe-migrate"} {
		var object metav1.PartialObjectMetadata
		require.NoError(t, json.UnmarshalCaseSensitivePreserveInts(r.texts[kind], &object))
		require.Equal(t, "pre-install,pre-upgrade", object.Annotations["helm.sh/hook"], kind)
		require.Equal(t, "PreSync", object.Annotations["argocd.argoproj.io/hook"], kind)
		require.Equal(t, "enabled", object.Annotations["kustomize.toolkit.fluxcd.io/force"], kind)
		weights[kind] = object.Annotations["helm.sh/hook-weight"]
	}
	require.Equal(t, map[string]string{"Job lethe-migrate": "0", "ConfigMap lethe-migrate": "-1", "ServiceAccount lethe-migrate": "-1"}, weights)
	for kind, text := range r.texts {
		if !strings.HasSuffix(kind, " lethe-migrate") {
			require.False(t, bytes.Contains(text, []byte("helm.sh/hook")), kind)
		}
	}
}

// docsURL is the value docsURL of the example production.
const docsURL = "https://example.org/lethe"

// linked returns a file for Prometheus or Grafana with links to the documentation.
func linked(t *testing.T, url, path string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), filepath.Join(root, "deploy/link-docs"), url, filepath.Join(root, path))
	text, err := command.Output()
	require.NoError(t, err, "%s %s", url, path)
	return string(text)
}

// TestChartMonitors tests that Prometheus and Grafana get the files of this repository,
// with the links of deploy/link-docs.
func TestChartMonitors(t *testing.T) {
	t.Parallel()
	r := chart(t, "production")
	var alerts prometheusRule
	require.NoError(t, json.UnmarshalCaseSensitivePreserveInts([]byte(asJSON(t, linked(t, docsURL, "deploy/prometheus/alerts.yml"))), &alerts.Spec))
	require.NotEmpty(t, alerts.Spec.Groups)
	require.Len(t, r.rules, 1)
	require.Equal(t, alerts.Spec, r.rules[0].Spec)
	for _, name := range []string{"overview", "jobs", "database"} {
		i := slices.IndexFunc(r.configMaps, func(m corev1.ConfigMap) bool { return m.Name == "lethe-dashboard-"+name })
		require.GreaterOrEqual(t, i, 0, name)
		require.JSONEq(t, linked(t, docsURL, "deploy/grafana/dashboards/"+name+".json"), r.configMaps[i].Data["lethe-"+name+".json"])
	}
	require.Contains(t, r.custom, "ServiceMonitor")
}

// TestLinksToTheDocumentation tests that alerts and dashboards have links only with the
// address of the documentation, and that these lead to what exists.
func TestLinksToTheDocumentation(t *testing.T) {
	t.Parallel()
	const path = "deploy/prometheus/alerts.yml"
	require.NotContains(t, page(t, path), "runbook_url:")
	require.Equal(t, page(t, path), linked(t, "", path))
	document := page(t, "docs/alerts.md")
	count := 0
	for _, url := range []string{docsURL, docsURL + "/"} {
		var alerts prometheusRule
		require.NoError(t, json.UnmarshalCaseSensitivePreserveInts([]byte(asJSON(t, linked(t, url, path))), &alerts.Spec))
		for _, group := range alerts.Spec.Groups {
			for _, rule := range group.Rules {
				count++
				require.Equal(t, docsURL+"/docs/alerts.md#"+strings.ToLower(rule.Alert), rule.Annotations["runbook_url"])
				require.Contains(t, document, "\n### "+rule.Alert+"\n")
				require.Len(t, rule.Annotations, 2)
			}
		}
	}
	require.Equal(t, 2*strings.Count(page(t, path), "- alert: "), count)

	dashboards, err := filepath.Glob(filepath.Join(root, "deploy/grafana/dashboards/*.json"))
	require.NoError(t, err)
	require.Len(t, dashboards, 3)
	links := 0
	for _, name := range dashboards {
		path := "deploy/grafana/dashboards/" + filepath.Base(name)
		require.False(t, strings.Contains(page(t, path), "://"), path)
		for _, found := range regexp.MustCompile(`\]\(`+docsURL+`/([^)]*)\)`).FindAllStringSubmatch(linked(t, docsURL, path), -1) {
			require.FileExists(t, filepath.Join(root, found[1]))
			links++
		}
	}
	require.Equal(t, 2, links)

	for _, args := range [][]string{{docsURL}, {"docs", path}, {docsURL + "|x", path}, {docsURL + "/\"", path}, {docsURL, "README.md"}} {
		command := exec.CommandContext(t.Context(), "deploy/link-docs", args...)
		command.Dir = root
		said, err := command.CombinedOutput()
		require.Error(t, err, args)
		require.NotEmpty(t, said, args)
	}
}

// TestChartRoutes holds the HTTPRoute against the routes of Traefik.
func TestChartRoutes(t *testing.T) {
	t.Parallel()
	r := chart(t, "production")
	require.Len(t, r.routes, 1)
	var got []string
	total := 0
	for _, rule := range r.routes[0].Spec.Rules {
		require.Equal(t, "lethe-api", rule.BackendRefs[0].Name)
		require.Equal(t, 8470, rule.BackendRefs[0].Port)
		require.LessOrEqual(t, len(rule.Matches), 64, "the Gateway API allows no more")
		total += len(rule.Matches)
		for _, match := range rule.Matches {
			if match.Path.Type == "RegularExpression" {
				got = append(got, match.Method+" "+match.Path.Value)
			} else {
				require.Contains(t, []string{"PathPrefix /_lethe/v1", "PathPrefix /_lethe/console"}, match.Path.Type+" "+match.Path.Value)
			}
		}
	}
	require.LessOrEqual(t, total, 128)
	traefik := page(t, "deploy/traefik/lethe.yml")
	var want []string
	for _, name := range []string{"lethe-purges", "lethe-deletes", "lethe-reads"} {
		_, rule, found := strings.Cut(traefik, "\n    "+name+":\n")
		require.True(t, found, name)
		rule, _, _ = strings.Cut(rule, "priority:")
		for _, path := range regexp.MustCompile("PathRegexp\\(`\\^(.*?)\\$`\\)").FindAllStringSubmatch(rule, -1) {
			for _, method := range regexp.MustCompile("Method\\(`([A-Z]+)`\\)").FindAllStringSubmatch(rule, -1) {
				want = append(want, method[1]+" "+path[1])
			}
		}
	}
	require.Len(t, want, 34)
	require.ElementsMatch(t, want, got)

	ingress := chart(t, "ess").ingresses
	require.Len(t, ingress, 1)
	require.Equal(t, "/_lethe/v1/", ingress[0].Spec.Rules[0].HTTP.Paths[0].Path)
	require.Equal(t, "/_lethe/console/", ingress[0].Spec.Rules[0].HTTP.Paths[1].Path)
}

// TestChartLimitsTraffic tests the connections that only the example production has.
func TestChartLimitsTraffic(t *testing.T) {
	t.Parallel()
	r := chart(t, "production")
	found := map[string]bool{}
	for _, network := range r.networks {
		switch network.Name {
		case "lethe-traces":
			require.Len(t, network.Spec.Egress, 1)
			require.Equal(t, 4318, network.Spec.Egress[0].Ports[0].Port.IntValue())
			require.Equal(t, "tracing", network.Spec.Egress[0].To[0].NamespaceSelector.MatchLabels["kubernetes.io/metadata.name"])
		case "lethe-database":
			require.Equal(t, "10.20.0.0/16", network.Spec.Egress[0].To[0].IPBlock.CIDR)
		default:
			continue
		}
		found[network.Name] = true
	}
	require.Len(t, found, 2)
}
