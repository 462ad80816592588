package gobench_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/bench"
	"lethe/internal/bench/gobench"
)

// TestCompare compares files as make bench does.
func TestCompare(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(name string, events int, seconds float64) string {
		path := filepath.Join(folder, name)
		require.NoError(t, gobench.Files{Go: path}.Write(bench.Table{
			Schema: "x", Sizes: map[string]int{"events": events},
			Rows: []bench.Row{{
				Case: "purge", Measure: "time, s",
				Subject:   bench.Sample{Name: "set-wise", Values: []float64{seconds, seconds, seconds, seconds}},
				Reference: bench.Sample{Name: "plain SQL", Values: []float64{20, 20, 20, 20}},
			}},
		}))
		return path
	}
	compare := func(older, newer string) string {
		cmd := exec.CommandContext(t.Context(), "scripts/compare-bench", older, newer)
		cmd.Dir = "../../.."
		var failures bytes.Buffer
		cmd.Stderr = &failures
		said, err := cmd.Output()
		require.NoError(t, err, failures.String())
		return string(said)
	}
	older, newer, other := write("older", 400, 4), write("newer", 400, 2), write("other", 500, 2)
	require.Contains(t, compare(filepath.Join(folder, "none"), newer), "There is no recorded run")
	require.Contains(t, compare(older, other), "has other sizes or tables")
	said := compare(older, newer)
	require.Regexp(t, `Purge/time/set-wise +4\.000 .* 2\.000 .* -50\.00%`, said)
	require.Regexp(t, `Purge/time/set-wise:plain_SQL +200\.0m .* 100\.0m .* -50\.00%`, said)
	_, err := os.Stat(filepath.Join(folder, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
