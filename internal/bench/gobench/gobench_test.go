package gobench_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/bench"
	"lethe/internal/bench/gobench"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	plain := bench.Sample{Name: "plain SQL", Values: []float64{20, 30}}
	var out bytes.Buffer
	require.NoError(t, gobench.Write(&out, bench.Table{
		Schema: "copies of\nx.dump", PostgreSQL: "15", Sizes: map[string]int{"sweep-rooms": 7, "events": 400},
		Rows: []bench.Row{
			{Case: "purge", Measure: "time, s", Subject: bench.Sample{Name: "set-wise", Values: []float64{5, 6}}, Reference: plain},
			{Case: "purge", Measure: "time, s", Subject: bench.Sample{Name: "row-wise", Values: []float64{10}}, Reference: plain},
			{
				Case: "pages", Measure: "p99 longer by, ms", Subject: bench.Sample{Name: "beside a purge", Values: []float64{250}},
				Reference: bench.Sample{Name: "longest batch", Values: []float64{0}},
			},
			{
				Case: "pages", Measure: "pages per CPU second", Subject: bench.Sample{Name: "admin", Values: []float64{7}},
				Reference: bench.Sample{Name: "bare query", Values: []float64{14}},
			},
		},
	}))
	require.Equal(t, `schema: copies of x.dump
events: 400
sweep-rooms: 7

BenchmarkPurge/time/plain_SQL 1 20 sec
BenchmarkPurge/time/plain_SQL 1 30 sec
BenchmarkPurge/time/set-wise 1 5 sec
BenchmarkPurge/time/set-wise 1 6 sec
BenchmarkPurge/time/set-wise:plain_SQL 1 0.25 ratio
BenchmarkPurge/time/set-wise:plain_SQL 1 0.2 ratio
BenchmarkPurge/time/row-wise 1 10 sec
BenchmarkPages/p99_longer_by/longest_batch 1 0 sec
BenchmarkPages/p99_longer_by/beside_a_purge 1 0.25 sec
BenchmarkPages/pages_per_CPU_second/bare_query 1 14 /s
BenchmarkPages/pages_per_CPU_second/admin 1 7 /s
BenchmarkPages/pages_per_CPU_second/admin:bare_query 1 0.5 ratio
`, out.String())
	// The form that benchstat reads.
	form := regexp.MustCompile(`^(Benchmark[A-Z]\S+ 1 \S+ \S+|[a-z][a-z-]*: .+|)$`)
	for line := range strings.Lines(out.String()) {
		require.Regexp(t, form, strings.TrimSuffix(line, "\n"))
	}
}
