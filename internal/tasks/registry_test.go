package tasks

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/sweep"
)

func TestEveryKindHasAConstructor(t *testing.T) {
	t.Parallel()
	var kinds []journal.Kind
	for _, definition := range jobs.Registry() {
		kinds = append(kinds, definition.Kind)
		require.Contains(t, jobs.Queues(), definition.Queue, definition.Kind)
		require.NotEmpty(t, definition.TaskAction, definition.Kind)
		require.Contains(t, definition.Ends, journal.Failed, definition.Kind)
	}
	require.ElementsMatch(t, kinds, slices.Collect(maps.Keys(constructors)))
}

// TestSeriesAreThereFromTheStart holds the series that a worker and a scheduler show
// at 0 against the registry: the first failure of a kind must be an increase.
func TestSeriesAreThereFromTheStart(t *testing.T) {
	t.Parallel()
	registry := observe.NewRegistry()
	metrics := observe.NewMetrics(registry)
	jobs.ShowWorker(metrics)
	sweep.New(sweep.Services{Metrics: metrics}, sweep.Options{})
	dispatch.NewReconciler(nil, nil, jobs.NewBoard(nil, nil, time.Hour, nil), nil, metrics)
	want := map[string][]string{}
	add := func(name string, labels ...string) { want[name] = append(want[name], strings.Join(labels, " ")) }
	for _, d := range jobs.Registry() {
		kind := string(d.Kind)
		for _, name := range []string{
			"lethe_job_batches_total", "lethe_job_batch_seconds", "lethe_job_retries_total", "lethe_job_row_wise_batches_total",
			"lethe_jobs_running", "lethe_rows_deleted_total",
		} {
			add(name, kind)
		}
		for _, state := range d.Ends {
			add("lethe_jobs_ended_total", kind, string(state))
		}
		for _, reason := range d.Yields {
			add("lethe_job_yields_total", kind, string(reason))
		}
		for _, outcome := range d.Sweep {
			add(map[journal.Kind]string{
				jobs.RetentionSweep: "lethe_sweep_rooms_total", jobs.AbandonedSweep: "lethe_abandoned_rooms_total",
			}[d.Kind], outcome)
		}
	}
	for _, action := range jobs.Actions() {
		add("lethe_reconciler_actions_total", string(action))
	}
	got := series(t, registry)
	for name, labels := range want {
		require.ElementsMatch(t, labels, got[name], name)
	}
}

// series returns the label values of all series, by the names of their metrics.
func series(t *testing.T, gatherer prometheus.Gatherer) map[string][]string {
	t.Helper()
	families, err := gatherer.Gather()
	require.NoError(t, err)
	all := map[string][]string{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			var values []string
			for _, label := range metric.GetLabel() {
				values = append(values, label.GetValue())
			}
			all[family.GetName()] = append(all[family.GetName()], strings.Join(values, " "))
		}
	}
	return all
}

// TestMetricsAreDocumented holds the words that docs/metrics.md explains against the
// registry.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/metrics.md")
	require.NoError(t, err)
	quoted := func(s string) (words []string) {
		for _, found := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(s, -1) {
			words = append(words, found[1])
		}
		return words
	}
	// The last column is what the metric means.
	meaning := func(metric string) []string {
		row := regexp.MustCompile("(?m)^\\| `" + metric + "` \\|.*\\|([^|]*)\\|$").FindSubmatch(text)
		require.NotNil(t, row, metric)
		return quoted(string(row[1]))
	}
	var kinds, ends, yields, actions []string
	for _, d := range jobs.Registry() {
		kinds = append(kinds, string(d.Kind))
		for _, state := range d.Ends {
			ends = append(ends, string(state))
		}
		for _, reason := range d.Yields {
			yields = append(yields, string(reason))
		}
		switch d.Kind {
		case jobs.RetentionSweep:
			require.ElementsMatch(t, d.Sweep, meaning("lethe_sweep_rooms_total"))
		case jobs.AbandonedSweep:
			require.ElementsMatch(t, d.Sweep, meaning("lethe_abandoned_rooms_total"))
		default:
			require.Empty(t, d.Sweep, d.Kind)
		}
	}
	for _, action := range jobs.Actions() {
		actions = append(actions, string(action))
	}
	distinct := func(words []string) []string { return slices.Compact(slices.Sorted(slices.Values(words))) }
	require.Equal(t, distinct(ends), distinct(meaning("lethe_jobs_ended_total")))
	require.Equal(t, distinct(yields), distinct(meaning("lethe_job_yields_total")))
	require.Equal(t, distinct(actions), distinct(meaning("lethe_reconciler_actions_total")))
	sentence := regexp.MustCompile(`The kinds are ([^.]*)\.`).FindSubmatch(text)
	require.NotNil(t, sentence)
	require.ElementsMatch(t, kinds, quoted(string(sentence[1])))
}
