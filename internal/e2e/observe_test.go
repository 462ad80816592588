package e2e

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"lethe/internal/config"
)

// A family is the metrics of one name.
type family struct {
	kind   string // such as counter
	labels map[string]bool
}

// labelled matches a series and its labels, but for the suffixes of a histogram.
var labelled = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? `)

// label matches a label of a series or of a query's matchers.
var label = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)\s*"(?:[^"\\]|\\.)*"`)

// exported returns what a process shows at /metrics, by name.
func exported(t *testing.T, p *process) map[string]family {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.metricsAddress()+"/metrics", http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	families := map[string]family{}
	for line := range strings.SplitSeq(string(text), "\n") {
		if words := strings.Fields(line); len(words) == 4 && words[1] == "TYPE" {
			families[words[2]] = family{words[3], map[string]bool{}}
			continue
		}
		series := labelled.FindStringSubmatch(line)
		if series == nil {
			continue
		}
		of, known := families[nameOf(families, series[1])]
		require.True(t, known, line)
		for _, found := range label.FindAllStringSubmatch(series[2], -1) {
			if found[1] != "le" {
				of.labels[found[1]] = true
			}
		}
	}
	return families
}

// nameOf is the name of the family that a series belongs to.
func nameOf(families map[string]family, series string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if name, cut := strings.CutSuffix(series, suffix); cut && (families[name].kind == "histogram" || families[name].kind == "summary") {
			return name
		}
	}
	return series
}

// documented returns what docs/metrics.md says of the metrics of a process.
func documented(t *testing.T, of string) map[string]family {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	families := map[string]family{}
	for line := range strings.SplitSeq(string(text), "\n") {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if !strings.HasPrefix(line, "| `lethe_") {
			continue
		}
		require.Len(t, cells, 5, line)
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		by := words(cells[3])
		if !by[of] && !by["all"] {
			continue
		}
		require.NotEmpty(t, cells[4])
		families[strings.Trim(cells[0], "`")] = family{cells[1], words(cells[2])}
	}
	require.NotEmpty(t, families)
	return families
}

// words are the words of a list with commas.
func words(list string) map[string]bool {
	all := map[string]bool{}
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.TrimSpace(word); word != "" {
			all[word] = true
		}
	}
	return all
}

// All that a process shows is documented, with its type and labels, and all that is
// documented is shown; and the dashboards and alerts ask for nothing else.
func TestMetricsAreAsDocumented(t *testing.T) {
	t.Parallel()
	f, _ := demo(t, 200)
	fleet := map[string]*process{
		"api": f.api, "worker": f.start("worker"), "scheduler": f.start("scheduler", "LETHE_RETENTION_ENABLED=true"),
	}
	f.ask(http.MethodGet, "/_synapse/admin/v1/server_version", nil)
	f.eventually(time.Minute, func() bool {
		shown := exported(t, fleet["scheduler"])
		return len(shown["lethe_queue_jobs"].labels) > 0 && len(shown["lethe_schedule_next_tick_seconds"].labels) > 0
	}, "the scheduler has not looked")

	shown := map[string]family{}
	for name, process := range fleet {
		all := exported(t, process)
		ours := map[string]family{}
		for name, family := range all {
			// What has no series has no labels, and is not there until it has.
			if strings.HasPrefix(name, "lethe_") {
				ours[name] = family
			}
		}
		require.Equal(t, documented(t, name), ours, name)
		for name, family := range all {
			if before, there := shown[name]; there {
				maps.Copy(before.labels, family.labels)
			} else {
				shown[name] = family
			}
		}
	}

	queries := alertQueries(t)
	for name, query := range dashboardQueries(t) {
		queries[name] = query
	}
	require.Greater(t, len(queries), 60)
	for name, query := range queries {
		checkQuery(t, shown, name, query)
	}
	// The check itself sees what is wrong.
	for _, wrong := range []string{
		`rate(lethe_no_such_total[1m])`, `lethe_queue_jobs{room="x"}`, `sum by (room) (lethe_queue_jobs)`, `go_no_such`,
	} {
		require.NotEmpty(t, wrongIn(shown, wrong), wrong)
	}
}

var (
	metricName = regexp.MustCompile(`\b(?:lethe|go|process|promhttp)_[a-z0-9_]+`)
	matchers   = regexp.MustCompile(`\b((?:lethe|go|process)_[a-z0-9_]+)\{([^}]*)\}`)
	grouping   = regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)`)
)

// fromPrometheus are the labels that Prometheus adds, or that its own series have.
var fromPrometheus = []string{"alertname", "alertstate", "instance", "job", "le", "severity"}

func checkQuery(t *testing.T, shown map[string]family, name, query string) {
	t.Helper()
	require.Empty(t, wrongIn(shown, query), "%s: %s", name, query)
}

// wrongIn returns the metrics and labels of a query that no process shows.
func wrongIn(shown map[string]family, query string) []string {
	var wrong []string
	labels := map[string]bool{}
	for _, label := range fromPrometheus {
		labels[label] = true
	}
	for _, series := range metricName.FindAllString(query, -1) {
		family, known := shown[nameOf(shown, series)]
		if !known {
			wrong = append(wrong, series)
		}
		maps.Copy(labels, family.labels)
	}
	for _, selector := range matchers.FindAllStringSubmatch(query, -1) {
		family := shown[nameOf(shown, selector[1])]
		for _, found := range label.FindAllStringSubmatch(selector[2], -1) {
			if !family.labels[found[1]] && !slices.Contains(fromPrometheus, found[1]) {
				wrong = append(wrong, selector[1]+" by "+found[1])
			}
		}
	}
	for _, list := range grouping.FindAllStringSubmatch(query, -1) {
		for label := range words(list[1]) {
			if !labels[label] {
				wrong = append(wrong, "by "+label)
			}
		}
	}
	return wrong
}

const deployed = "../../deploy"

// alertQueries are the queries of the alerts, each of which has an entry in
// docs/alerts.md.
func alertQueries(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(deployed, "prometheus", "alerts.yml"))
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
				Labels      map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &rules))
	docs, err := os.ReadFile("../../docs/alerts.md")
	require.NoError(t, err)
	tested, err := os.ReadFile(filepath.Join(deployed, "prometheus", "alerts_test.yml"))
	require.NoError(t, err)
	queries := map[string]string{}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			queries[rule.Alert] = rule.Expr
			require.Contains(t, string(docs), "\n### "+rule.Alert+"\n")
			require.NotEmpty(t, rule.Annotations["summary"])
			require.Contains(t, []string{"critical", "warning", "info"}, rule.Labels["severity"])
			require.Contains(t, string(tested), rule.Alert, "promtool tests it")
		}
	}
	require.Len(t, queries, strings.Count(string(docs), "\n### "), "no entry is of no alert")
	return queries
}

// dashboardQueries are the queries of the dashboards.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(deployed, "grafana", "dashboards", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	queries := map[string]string{}
	uids, links := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var board struct {
			UID    string
			Links  []struct{ URL string }
			Panels []struct {
				ID          int
				Type        string
				Title       string
				Description string
				GridPos     struct{ X, Y, W, H int }
				Targets     []struct{ Expr, RefID string }
			}
		}
		require.NoError(t, json.Unmarshal(text, &board), file)
		require.False(t, uids[board.UID], "two dashboards have the uid %s", board.UID)
		uids[board.UID] = true
		for _, link := range board.Links {
			links[strings.TrimPrefix(link.URL, "/d/")] = true
		}
		ids, places := map[int]bool{}, map[[2]int]string{}
		for _, panel := range board.Panels {
			require.False(t, ids[panel.ID], "%s has two panels %d", file, panel.ID)
			ids[panel.ID] = true
			for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
				require.Less(t, x, 24, panel.Title)
				for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
					require.Empty(t, places[[2]int{x, y}], "%s is in the place of another", panel.Title)
					places[[2]int{x, y}] = panel.Title
				}
			}
			if panel.Type == "row" {
				continue
			}
			require.NotEmpty(t, panel.Description, "%s says what it is", panel.Title)
			require.NotEmpty(t, panel.Targets, panel.Title)
			for _, target := range panel.Targets {
				queries[filepath.Base(file)+": "+panel.Title+" "+target.RefID] = target.Expr
			}
		}
	}
	for link := range links {
		require.True(t, uids[link], "no dashboard is %s", link)
	}
	return queries
}

// promtool runs Prometheus's own check, and skips where it is not there.
func promtool(t *testing.T, folder string, args ...string) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not there: on Debian it is in the package prometheus")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Dir = folder
	output, err := command.CombinedOutput()
	require.NoError(t, err, "%s", output)
}

func TestPrometheusTakesItsConfiguration(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(deployed, "prometheus")
	promtool(t, folder, "check", "config", "prometheus.yml")
	promtool(t, folder, "check", "config", "host.yml")
	promtool(t, folder, "check", "rules", "--lint-fatal", "alerts.yml")
}

// TestPrometheusOfAHostScrapesTheDefaults compares the targets of a Prometheus beside the
// units with the addresses at which processes serve metrics by default.
func TestPrometheusOfAHostScrapesTheDefaults(t *testing.T) {
	t.Parallel()
	type scrapes struct {
		Configs []struct {
			Job    string                       `yaml:"job_name"`
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	read := func(text []byte) map[string]string {
		var file scrapes
		require.NoError(t, yaml.Unmarshal(text, &file))
		targets := map[string]string{}
		for _, config := range file.Configs {
			require.Len(t, config.Static, 1)
			require.Len(t, config.Static[0].Targets, 1)
			targets[config.Job] = config.Static[0].Targets[0]
		}
		return targets
	}
	defaults := config.Default()
	want := map[string]string{
		"lethe-api": defaults.API.MetricsListen, "lethe-worker": defaults.Worker.Listen, "lethe-scheduler": defaults.Scheduler.Listen,
	}
	text, err := os.ReadFile(filepath.Join(deployed, "prometheus", "host.yml"))
	require.NoError(t, err)
	require.Equal(t, want, read(text))

	document, err := os.ReadFile("../../docs/install.md")
	require.NoError(t, err)
	_, block, found := strings.Cut(string(document), "```yaml\nrule_files:")
	require.True(t, found, "install.md shows it")
	block, _, _ = strings.Cut(block, "\n```")
	require.Equal(t, want, read([]byte("rule_files:"+block)))
}

func TestAlertsFireWhenTheyAreToAndOnlyThen(t *testing.T) {
	t.Parallel()
	promtool(t, filepath.Join(deployed, "prometheus"), "test", "rules", "alerts_test.yml")
}

// A query of Grafana's is one of Prometheus's once its variables are set.
func TestDashboardQueriesAreQueries(t *testing.T) {
	t.Parallel()
	var rules []string
	for _, query := range dashboardQueries(t) {
		query = strings.ReplaceAll(query, "$__rate_interval", "1m")
		encoded, err := json.Marshal(query)
		require.NoError(t, err)
		rules = append(rules, "      - {record: x, expr: "+string(encoded)+", labels: {n: "+`"`+url.QueryEscape(query)+`"`+"}}")
	}
	slices.Sort(rules)
	file := filepath.Join(t.TempDir(), "rules.yml")
	require.NoError(t, os.WriteFile(file, []byte("groups:\n  - name: dashboards\n    rules:\n"+strings.Join(rules, "\n")+"\n"), 0o600))
	promtool(t, ".", "check", "rules", "--lint-fatal", file)
}
