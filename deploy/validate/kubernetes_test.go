package validate

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"lethe/internal/config"
)

// overlays lists the folders that an operator can apply.
var overlays = []string{"base", "overlays/single-node", "overlays/production"}

// A cluster is the objects of one folder, by kind.
type cluster struct {
	accounts     []corev1.ServiceAccount
	autoscalers  []autoscalingv2.HorizontalPodAutoscaler
	budgets      []policyv1.PodDisruptionBudget
	configMaps   []corev1.ConfigMap
	cronJobs     []batchv1.CronJob
	deployments  []appsv1.Deployment
	ingresses    []networkingv1.Ingress
	jobs         []batchv1.Job
	namespaces   []corev1.Namespace
	networks     []networkingv1.NetworkPolicy
	secrets      []corev1.Secret
	services     []corev1.Service
	statefulSets []appsv1.StatefulSet
	custom       map[string]map[string]any // ScaledObject and ServiceMonitor, by kind

	pods []pod
}

// A pod is a pod template.
type pod struct {
	of        string // kind and name of its owner
	component string
	meta      metav1.ObjectMeta
	spec      corev1.PodSpec
}

// container returns the pod's only container.
func (p pod) container(t *testing.T) corev1.Container {
	t.Helper()
	require.Empty(t, p.spec.InitContainers, p.of)
	require.Len(t, p.spec.Containers, 1, p.of)
	return p.spec.Containers[0]
}

// program returns the program of Lethe's image that the pod runs, or "" for other images.
func (p pod) program(t *testing.T) string {
	t.Helper()
	if c := p.container(t); len(c.Command) > 0 {
		return c.Command[0]
	}
	return ""
}

// decode decodes an object into its type. An unknown field is an error.
func decode[T any](t *testing.T, into *[]T, text []byte) *T {
	t.Helper()
	var object T
	mistakes, err := json.UnmarshalStrict(text, &object)
	require.NoError(t, err)
	require.Empty(t, mistakes, "%s", text)
	*into = append(*into, object)
	return &(*into)[len(*into)-1]
}

// kustomized builds a folder as kubectl kustomize does.
func kustomized(t *testing.T, folder string) *cluster {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	require.NoError(t, err)
	c := &cluster{custom: map[string]map[string]any{}}
	for _, resource := range built.Resources() {
		text, err := resource.MarshalJSON()
		require.NoError(t, err)
		if resource.GetKind() != "Namespace" {
			require.Equal(t, "lethe", resource.GetNamespace(), resource.GetName())
		}
		c.add(t, resource.GetApiVersion()+" "+resource.GetKind(), text)
	}
	require.NotEmpty(t, c.pods)
	return c
}

// add adds an object to the cluster. The version is that of its API, and its kind.
func (c *cluster) add(t *testing.T, version string, text []byte) {
	t.Helper()
	_, kind, _ := strings.Cut(version, " ")
	addPod := func(name string, template corev1.PodTemplateSpec) {
		c.pods = append(c.pods, pod{kind + " " + name, template.Labels["app.kubernetes.io/component"], template.ObjectMeta, template.Spec})
	}
	switch version {
	case "v1 ConfigMap":
		decode(t, &c.configMaps, text)
	case "v1 Namespace":
		decode(t, &c.namespaces, text)
	case "v1 Secret":
		decode(t, &c.secrets, text)
	case "v1 Service":
		decode(t, &c.services, text)
	case "v1 ServiceAccount":
		decode(t, &c.accounts, text)
	case "apps/v1 Deployment":
		d := decode(t, &c.deployments, text)
		addPod(d.Name, d.Spec.Template)
	case "apps/v1 StatefulSet":
		s := decode(t, &c.statefulSets, text)
		addPod(s.Name, s.Spec.Template)
	case "batch/v1 CronJob":
		j := decode(t, &c.cronJobs, text)
		addPod(j.Name, j.Spec.JobTemplate.Spec.Template)
	case "batch/v1 Job":
		j := decode(t, &c.jobs, text)
		addPod(j.Name, j.Spec.Template)
	case "autoscaling/v2 HorizontalPodAutoscaler":
		decode(t, &c.autoscalers, text)
	case "networking.k8s.io/v1 NetworkPolicy":
		decode(t, &c.networks, text)
	case "networking.k8s.io/v1 Ingress":
		decode(t, &c.ingresses, text)
	case "policy/v1 PodDisruptionBudget":
		decode(t, &c.budgets, text)
	case "keda.sh/v1alpha1 ScaledObject", "monitoring.coreos.com/v1 ServiceMonitor":
		c.custom[kind] = conforming(t, text, kind)
	default:
		require.Fail(t, "an object of an unknown kind", version)
	}
}

// each runs a test on the objects of every overlay.
func each(t *testing.T, test func(*testing.T, *cluster)) {
	t.Parallel()
	for _, name := range overlays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, kustomized(t, filepath.Join(root, "deploy/kubernetes", name)))
		})
	}
}

func TestPodsFollowTheRestrictedProfile(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	each(t, func(t *testing.T, c *cluster) {
		require.Len(t, c.namespaces, 1)
		require.Equal(t, "restricted", c.namespaces[0].Labels["pod-security.kubernetes.io/enforce"])
		for _, p := range c.pods {
			level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
			for _, result := range evaluator.EvaluatePod(level, &p.meta, &p.spec) {
				require.True(t, result.Allowed, "%s: %s: %s", p.of, result.ForbiddenReason, result.ForbiddenDetail)
			}
			// Lethe also requires what the profile does not.
			container := p.container(t)
			require.NotNil(t, container.SecurityContext.ReadOnlyRootFilesystem, p.of)
			require.True(t, *container.SecurityContext.ReadOnlyRootFilesystem, p.of)
			require.NotZero(t, *p.spec.SecurityContext.RunAsUser, p.of)
			require.False(t, *p.spec.AutomountServiceAccountToken, p.of)
			require.False(t, *p.spec.EnableServiceLinks, p.of)
			require.Contains(t, container.Resources.Requests, corev1.ResourceCPU, p.of)
			require.Contains(t, container.Resources.Limits, corev1.ResourceMemory, p.of)
			requireShortImage(t, container.Image)
			if p.program(t) != "" {
				require.True(t, strings.HasPrefix(container.Image, "lethe:"), container.Image)
			}
		}
	})
}

func TestAccountsHaveNoToken(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		names := map[string]bool{}
		for _, account := range c.accounts {
			require.False(t, *account.AutomountServiceAccountToken, account.Name)
			names[account.Name] = true
		}
		for _, p := range c.pods {
			require.True(t, names[p.spec.ServiceAccountName], p.of)
		}
	})
}

// given returns the environment of a pod's container and its mounted files by path. It
// requires that the ConfigMaps and Secrets exist.
func given(t *testing.T, c *cluster, p pod) (environment, files map[string]string) {
	t.Helper()
	environment, files = map[string]string{}, map[string]string{}
	container := p.container(t)
	require.Empty(t, container.EnvFrom, p.of)
	for _, variable := range container.Env {
		require.Nil(t, variable.ValueFrom, "%s: %s", p.of, variable.Name)
		environment[variable.Name] = variable.Value
	}
	volumes := map[string]map[string]string{}
	for _, volume := range p.spec.Volumes {
		data := map[string]string{}
		var items []corev1.KeyToPath
		switch {
		case volume.ConfigMap != nil:
			i := slices.IndexFunc(c.configMaps, func(m corev1.ConfigMap) bool { return m.Name == volume.ConfigMap.Name })
			require.GreaterOrEqual(t, i, 0, "%s: no ConfigMap %s", p.of, volume.ConfigMap.Name)
			data, items = c.configMaps[i].Data, volume.ConfigMap.Items
		case volume.Secret != nil:
			i := slices.IndexFunc(c.secrets, func(s corev1.Secret) bool { return s.Name == volume.Secret.SecretName })
			require.GreaterOrEqual(t, i, 0, "%s: no Secret %s", p.of, volume.Secret.SecretName)
			for key, text := range c.secrets[i].Data {
				data[key] = string(text)
			}
			items = volume.Secret.Items
			require.Equal(t, int32(0o440), *volume.Secret.DefaultMode, p.of)
		default:
			require.Fail(t, "a volume of an unknown kind", p.of)
		}
		if items != nil {
			chosen := map[string]string{}
			for _, item := range items {
				require.Contains(t, data, item.Key, p.of)
				chosen[item.Path] = data[item.Key]
			}
			data = chosen
		}
		volumes[volume.Name] = data
	}
	for _, mount := range container.VolumeMounts {
		if data, ok := volumes[mount.Name]; ok {
			require.True(t, mount.ReadOnly, p.of)
			for name, text := range data {
				files[mount.MountPath+"/"+name] = text
			}
			delete(volumes, mount.Name)
		}
	}
	require.Empty(t, volumes, "%s has a volume that is not mounted", p.of)
	return environment, files
}

// replaced replaces the secrets of the repository by valid ones.
func replaced(files map[string]string) map[string]string {
	files = maps.Clone(files)
	for path, url := range map[string]string{
		"/run/secrets/lethe/database-url": "postgres://lethe@127.0.0.1:1/synapse?connect_timeout=2",
		"/run/secrets/lethe/redis-url":    "redis://127.0.0.1:1/0",
	} {
		if _, ok := files[path]; ok {
			files[path] = url
		}
	}
	return files
}

func TestSettingsAreValid(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		for _, p := range c.pods {
			program := p.program(t)
			if program == "" {
				given(t, c, p)
				continue
			}
			environment, files := given(t, c, p)
			settings, err := load(t, program, environment, replaced(files))
			require.NoError(t, err, p.of)
			listen := map[string]map[string]string{
				"/api":       {"http": settings.API.Listen, "metrics": settings.API.MetricsListen},
				"/asynqmon":  {"http": settings.Asynqmon.Listen, "metrics": settings.Asynqmon.MetricsListen},
				"/worker":    {"metrics": settings.Worker.Listen},
				"/scheduler": {"metrics": settings.Scheduler.Listen},
			}[program]
			if ports := p.container(t).Ports; len(ports) > 0 {
				require.Len(t, ports, len(listen), p.of)
				for _, port := range ports {
					require.Equal(t, fmt.Sprintf(":%d", port.ContainerPort), listen[port.Name], p.of)
				}
			}
		}
	})
}

func TestNothingStartsWithSecretsOfTheRepository(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		for _, secret := range c.secrets {
			for key, text := range secret.Data {
				require.Equal(t, "REPLACE", string(text), "%s: %s", secret.Name, key)
			}
		}
		for _, p := range c.pods {
			if program := p.program(t); program != "" {
				environment, files := given(t, c, p)
				_, err := load(t, program, environment, files)
				require.ErrorContains(t, err, map[bool]string{true: "LETHE_REDIS_URL_FILE", false: "LETHE_DATABASE_URL_FILE"}[program == "/asynqmon"], p.of)
			}
		}
	})
}

func TestProcessesAreProbedAndDrain(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		for _, d := range c.deployments {
			i := slices.IndexFunc(c.pods, func(p pod) bool { return p.of == "Deployment "+d.Name })
			p := c.pods[i]
			container := p.container(t)
			for path, probe := range map[string]*corev1.Probe{"/healthz": container.LivenessProbe, "/readyz": container.ReadinessProbe} {
				require.NotNil(t, probe, p.of)
				require.Equal(t, path, probe.HTTPGet.Path, p.of)
				require.Equal(t, container.Ports[0].Name, probe.HTTPGet.Port.String(), p.of)
				// A check takes 2 s at most, and all of them run at once.
				require.Greater(t, probe.TimeoutSeconds, int32(2), p.of)
			}
			require.Equal(t, "/healthz", container.StartupProbe.HTTPGet.Path, p.of)

			environment, files := given(t, c, p)
			settings, err := load(t, p.program(t), environment, replaced(files))
			require.NoError(t, err)
			needs := apiDrain
			if p.component == "worker" {
				needs = settings.Worker.DrainTimeout + bookkeeping
			}
			if container.Lifecycle != nil {
				needs += time.Duration(container.Lifecycle.PreStop.Sleep.Seconds) * time.Second
			}
			require.Greater(t, time.Duration(*p.spec.TerminationGracePeriodSeconds)*time.Second, needs, p.of)
		}
	})
}

// selected returns the pods that a selector selects.
func selected(t *testing.T, c *cluster, selector *metav1.LabelSelector) []pod {
	t.Helper()
	s, err := metav1.LabelSelectorAsSelector(selector)
	require.NoError(t, err)
	var pods []pod
	for _, p := range c.pods {
		if s.Matches(labels.Set(p.meta.Labels)) {
			pods = append(pods, p)
		}
	}
	return pods
}

func TestSelectors(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		only := func(selector *metav1.LabelSelector, of string) {
			pods := selected(t, c, selector)
			require.Len(t, pods, 1, of)
			require.Equal(t, of, pods[0].of)
		}
		for _, d := range c.deployments {
			only(d.Spec.Selector, "Deployment "+d.Name)
		}
		for _, s := range c.statefulSets {
			only(s.Spec.Selector, "StatefulSet "+s.Name)
			require.True(t, slices.ContainsFunc(c.services, func(service corev1.Service) bool { return service.Name == s.Spec.ServiceName }))
		}
		for _, budget := range c.budgets {
			only(budget.Spec.Selector, "Deployment "+budget.Name)
		}
		for _, service := range c.services {
			pods := selected(t, c, &metav1.LabelSelector{MatchLabels: service.Spec.Selector})
			require.Len(t, pods, 1, service.Name)
			ports := pods[0].container(t).Ports
			require.Len(t, service.Spec.Ports, len(ports), service.Name)
			for i, port := range ports {
				require.Equal(t, port.Name, service.Spec.Ports[i].TargetPort.String(), service.Name)
				require.Equal(t, port.ContainerPort, service.Spec.Ports[i].Port, service.Name)
			}
		}
	})
}

func TestNetworkPoliciesDenyByDefault(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		closed := 0
		for _, network := range c.networks {
			pods := selected(t, c, &network.Spec.PodSelector)
			require.NotEmpty(t, pods, network.Name)
			for _, expression := range network.Spec.PodSelector.MatchExpressions {
				for _, component := range expression.Values {
					require.True(t, slices.ContainsFunc(pods, func(p pod) bool { return p.component == component }),
						"%s: no pod is a %s", network.Name, component)
				}
			}
			for _, rule := range network.Spec.Ingress {
				require.NotEmpty(t, rule.From, network.Name)
				for _, from := range rule.From {
					if from.NamespaceSelector == nil {
						require.NotEmpty(t, selected(t, c, from.PodSelector), network.Name)
					}
				}
				for _, port := range rule.Ports {
					for _, p := range pods {
						require.True(t, slices.ContainsFunc(p.container(t).Ports, func(c corev1.ContainerPort) bool { return c.Name == port.Port.String() }),
							"%s: %s", network.Name, p.of)
						// The port of clients has no metrics, and that of metrics nothing for clients.
						if network.Name == "lethe-clients" {
							require.Equal(t, "http", port.Port.String())
						} else if network.Name == "lethe-metrics" {
							require.Equal(t, "metrics", port.Port.String())
						}
					}
				}
			}
			if len(network.Spec.Ingress)+len(network.Spec.Egress) == 0 {
				require.ElementsMatch(t, []networkingv1.PolicyType{"Ingress", "Egress"}, network.Spec.PolicyTypes)
				require.Len(t, pods, len(c.pods), "%s leaves pods open", network.Name)
				closed++
			}
		}
		require.Equal(t, 1, closed)
	})
}

func TestEachJobOfRetentionHasACronJob(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		var settings config.Config
		crons := map[string]string{} // schedules by the name of the job
		for _, cron := range c.cronJobs {
			require.Equal(t, batchv1.ForbidConcurrent, cron.Spec.ConcurrencyPolicy, cron.Name)
			require.NotNil(t, cron.Spec.StartingDeadlineSeconds, cron.Name)
			require.Equal(t, "Etc/UTC", *cron.Spec.TimeZone, cron.Name)
			i := slices.IndexFunc(c.pods, func(p pod) bool { return p.of == "CronJob "+cron.Name })
			p := c.pods[i]
			environment, files := given(t, c, p)
			if p.component != "retention" {
				continue
			}
			var err error
			settings, err = load(t, "/scheduler", environment, replaced(files))
			require.NoError(t, err)

			args := p.container(t).Args
			value := func(flag string) string {
				i := slices.Index(args, flag)
				require.GreaterOrEqual(t, i, 0, "%s has no %s", cron.Name, flag)
				return args[i+1]
			}
			require.Contains(t, args, "--wait")
			crons[value("--job")] = cron.Spec.Schedule
			timeout, err := time.ParseDuration(value("--timeout"))
			require.NoError(t, err)
			deadline := time.Duration(*cron.Spec.JobTemplate.Spec.ActiveDeadlineSeconds) * time.Second
			require.Greater(t, deadline, timeout+time.Minute, cron.Name)
		}
		schedules := map[string]string{}
		for _, job := range settings.Retention.Rules.Jobs {
			schedules[job.Name] = job.Schedule.String()
		}
		require.Equal(t, schedules, crons)
	})
}

func TestCommandsAreAccepted(t *testing.T) {
	each(t, func(t *testing.T, c *cluster) {
		for _, p := range c.pods {
			program := p.program(t)
			args := p.container(t).Args
			if program == "" {
				continue
			}
			if len(args) == 0 {
				require.True(t, strings.HasPrefix(p.of, "Deployment "), "%s must exit", p.of)
				continue
			}
			environment, files := given(t, c, p)
			environ := append(inTest(t, environment, replaced(files)), "LETHE_RETENTION_ENABLED=false")
			// Invalid options, or an unknown retention job, would give the status 2.
			// Here a scheduler has nothing to do, and the others cannot connect to
			// the addresses.
			status, said := run(t, environ, program, args...)
			if program == "/scheduler" {
				require.Zero(t, status, "%s: %s", p.of, said)
				continue
			}
			require.Equal(t, 1, status, "%s: %s", p.of, said)
			require.Contains(t, said, "connection refused", p.of)
		}
	})
}

func TestProductionScales(t *testing.T) {
	t.Parallel()
	c := kustomized(t, filepath.Join(root, "deploy/kubernetes/overlays/production"))
	replicas := map[string]*int32{}
	for _, d := range c.deployments {
		replicas[d.Name] = d.Spec.Replicas
		if d.Name != "lethe-asynqmon" {
			require.Len(t, d.Spec.Template.Spec.TopologySpreadConstraints, 1, d.Name)
		}
	}
	require.Equal(t, int32(2), *replicas["lethe-scheduler"])

	require.Len(t, c.autoscalers, 1)
	scaler := c.autoscalers[0].Spec
	require.Equal(t, "lethe-api", scaler.ScaleTargetRef.Name)
	require.GreaterOrEqual(t, *scaler.MinReplicas, int32(2))

	object := c.custom["ScaledObject"]["spec"].(map[string]any)
	require.Equal(t, "lethe-worker", object["scaleTargetRef"].(map[string]any)["name"])
	trigger := object["triggers"].([]any)[0].(map[string]any)["metadata"].(map[string]any)
	i := slices.IndexFunc(c.pods, func(p pod) bool { return p.component == "worker" })
	environment, files := given(t, c, c.pods[i])
	settings, err := load(t, "/worker", environment, replaced(files))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(settings.Worker.Concurrency), trigger["threshold"], "KEDA must start a worker for worker.concurrency jobs")
	require.Contains(t, trigger["query"], "lethe_queue_jobs{")

	// Only the autoscaler may set the number of pods.
	for _, name := range []string{"lethe-api", "lethe-worker"} {
		require.Contains(t, replicas, name)
		require.Nil(t, replicas[name], "an apply would undo the scaling of %s", name)
	}
	require.Len(t, c.budgets, 3)

	monitor := c.custom["ServiceMonitor"]["spec"].(map[string]any)
	matched := monitor["selector"].(map[string]any)["matchLabels"].(map[string]any)
	require.Len(t, monitor["endpoints"], 1)
	endpoint := monitor["endpoints"].([]any)[0].(map[string]any)
	require.Equal(t, "/metrics", endpoint["path"])
	for _, service := range c.services {
		for key, value := range matched {
			require.Equal(t, value, service.Labels[key], service.Name)
		}
		require.Equal(t, "metrics", endpoint["port"])
		require.True(t, slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == endpoint["port"] }), service.Name)
	}
}

// ownOverlay builds the overlay in docs/kubernetes.md, after a change of its text. The
// files are beside it, too.
func ownOverlay(t *testing.T, change func(text string) string, files map[string]string) *cluster {
	t.Helper()
	_, rest, found := strings.Cut(page(t, "docs/kubernetes.md"), "# kustomization.yaml\n")
	require.True(t, found)
	text, _, found := strings.Cut(rest, "```")
	require.True(t, found)

	folder, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	checkout, err := filepath.Abs(root)
	require.NoError(t, err)
	checkout, err = filepath.Rel(folder, checkout)
	require.NoError(t, err)
	require.Contains(t, text, " lethe/deploy/")
	all := map[string]string{
		"kustomization.yaml": change(strings.Replace(text, " lethe/deploy/", " "+checkout+"/deploy/", 1)),
		"lethe.yaml":         "server_name: mine.example\nhomeserver: {url: 'http://synapse.example:8008'}\n",
		"redis-url":          "redis://:mine@redis.example:6379/0",
	}
	for _, role := range []string{"api", "worker", "scheduler", "owner"} {
		all[role+"-database-url"] = "postgres://" + role + ":mine@db.example:5432/synapse"
	}
	maps.Copy(all, files)
	for name, text := range all {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	return kustomized(t, folder)
}

// page reads a page of the documentation.
func page(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	return string(text)
}

// example returns the indented block of a page that follows a heading, without its
// indentation.
func example(t *testing.T, path, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(page(t, path), "\n## "+heading+"\n")
	require.True(t, found)
	var block strings.Builder
	for line := range strings.Lines(rest) {
		if line, indented := strings.CutPrefix(line, "    "); indented {
			block.WriteString(line)
		} else if block.Len() > 0 {
			break
		}
	}
	return block.String()
}

// TestOwnOverlay tests the overlay in docs/kubernetes.md.
func TestOwnOverlay(t *testing.T) {
	t.Parallel()
	c := ownOverlay(t, func(text string) string { return text }, nil)
	for _, p := range c.pods {
		environment, files := given(t, c, p)
		settings, err := load(t, p.program(t), environment, files)
		require.NoError(t, err, p.of)
		require.Equal(t, "mine.example", settings.ServerName)
	}
}

// TestEachPodHasItsOwnSecrets tests that the overlay in docs/kubernetes.md gives each pod
// the URL of its own role, and nothing that it does not need.
func TestEachPodHasItsOwnSecrets(t *testing.T) {
	t.Parallel()
	c := ownOverlay(t, func(text string) string { return text }, nil)
	want := map[string]struct {
		role    string
		secrets []string
	}{
		"api":       {"api", []string{"database-url", "redis-url"}},
		"worker":    {"worker", []string{"database-url", "redis-url"}},
		"scheduler": {"scheduler", []string{"database-url", "redis-url"}},
		"retention": {"scheduler", []string{"database-url", "redis-url"}},
		"doctor":    {"worker", []string{"database-url", "redis-url"}},
		"migrate":   {"owner", []string{"database-url"}},
		"asynqmon":  {"", []string{"redis-url"}},
	}
	seen := map[string]bool{}
	for _, p := range c.pods {
		environment, files := given(t, c, p)
		settings, err := load(t, p.program(t), environment, files)
		require.NoError(t, err, p.of)
		if role := want[p.component].role; role != "" {
			require.Contains(t, string(settings.Database.URL), "//"+role+":", p.of)
		} else {
			require.Empty(t, settings.Database.URL, p.of)
		}
		var secrets []string
		for path := range files {
			if name, ok := strings.CutPrefix(path, "/run/secrets/lethe/"); ok {
				secrets = append(secrets, name)
			}
		}
		require.ElementsMatch(t, want[p.component].secrets, secrets, p.of)
		seen[p.component] = true
	}
	require.Len(t, seen, len(want))
	// A Secret has no key that its pods are not given.
	for _, secret := range c.secrets {
		for key := range secret.Data {
			require.Contains(t, []string{"database-url", "redis-url"}, key, secret.Name)
		}
	}
	doctor := slices.IndexFunc(c.pods, func(p pod) bool { return p.component == "doctor" })
	require.Equal(t, []string{"doctor", "--for", "worker"}, c.pods[doctor].container(t).Args)
	// Where asynqmon has no database, it must not reach it either.
	database := slices.IndexFunc(c.networks, func(n networkingv1.NetworkPolicy) bool { return n.Name == "lethe-database" })
	require.GreaterOrEqual(t, database, 0)
	for _, p := range selected(t, c, &c.networks[database].Spec.PodSelector) {
		require.NotEqual(t, "asynqmon", p.component)
	}
}

// TestSynapseOverlay tests that the patches in docs/kubernetes.md give what a Lethe beside
// a Synapse needs to workers and the doctor, and to no other pod.
func TestSynapseOverlay(t *testing.T) {
	t.Parallel()
	c := ownOverlay(t, func(text string) string {
		// The example replaces the generator of the same name, and adds what follows it.
		generator, patches, found := strings.Cut(example(t, "docs/kubernetes.md", "Beside Synapse"), "patches:\n")
		require.True(t, found)
		_, generator, found = strings.Cut(generator, "secretGenerator:\n")
		require.True(t, found)
		before, rest, found := strings.Cut(text, "     - name: lethe-worker\n")
		require.True(t, found)
		_, after, found := strings.Cut(rest, "     - name: ")
		require.True(t, found)
		text = before
		for line := range strings.Lines(generator) {
			text += "   " + line
		}
		text += "     - name: " + strings.TrimRight(after, " ")
		for line := range strings.Lines("patches:\n" + patches) {
			text += "   " + line
		}
		return text
	}, map[string]string{"as-token": "its_token", "synapse-redis-url": "redis://:its@synapse-redis.example:6379/0"})
	seen := map[string]bool{}
	for _, p := range c.pods {
		environment, files := given(t, c, p)
		settings, err := load(t, p.program(t), environment, files)
		require.NoError(t, err, p.of)
		url := "http://synapse.example:8008"
		if p.component == "asynqmon" {
			url = "http://lethe-api:8470"
		}
		require.Equal(t, url, settings.Homeserver.URL, p.of)
		require.Equal(t, "auto", settings.SynapseBeside, p.of)
		if p.component == "worker" || p.component == "doctor" {
			require.Equal(t, "its_token", string(settings.Homeserver.ASToken), p.of)
			require.Contains(t, string(settings.Homeserver.RedisURL), "@synapse-redis.example:", p.of)
			seen[p.component] = true
			continue
		}
		require.Empty(t, settings.Homeserver.ASToken, p.of)
		require.Empty(t, settings.Homeserver.RedisURL, p.of)
	}
	require.Len(t, seen, 2)
}
