package control_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

func TestBatchesLeaveSamples(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	work := l.Work(room)
	samples := func() []control.Sample {
		samples, err := l.control.Samples(l.Ctx, work.Run.JobID)
		require.NoError(t, err)
		return samples
	}
	require.Empty(t, samples())
	commit := func(checkpoint any) {
		t.Helper()
		require.NoError(t, l.InBatch(work, func(*journal.Batch) (any, error) { return checkpoint, nil }))
	}
	commit(map[string]any{"events_deleted": 5, "events_kept": 2})
	commit(map[string]any{"events_deleted": 6, "events_kept": 2}) // less than the gap later
	require.Len(t, samples(), 1)
	require.EqualValues(t, 7, samples()[0].Done)
	require.WithinDuration(t, time.Now(), samples()[0].At, time.Minute)
	old := func() {
		l.Exec(`UPDATE lethe.jobs SET samples = jsonb_set(samples, '{points,-1,0}', '1000') WHERE id = $1`, work.Run.JobID)
	}
	for _, odd := range []any{"text", []int{1}, nil, map[string]any{"events_deleted": "x", "sweep": 7}} {
		old()
		commit(odd)
	}
	require.Len(t, samples(), 5, "what the checkpoint has does not matter")
	old()
	commit(map[string]any{"sweep": map[string]any{"rooms": 12}})
	require.EqualValues(t, 12, samples()[5].Done)
	for _, unknown := range []string{"", "AAAAAAAAAAAAAAAA", "\x00"} {
		none, err := l.control.Samples(l.Ctx, unknown)
		require.NoError(t, err)
		require.Empty(t, none)
	}
}

// However long a job takes, it has at most 200 samples, and they are spread over its time.
func TestSamplesStayFew(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var points []string
	for i := range 199 {
		points = append(points, fmt.Sprintf("[%d,%d]", 1000*i, i))
	}
	text := storetest.One[string](l.Lab, `SELECT lethe.add_sample($1::text::jsonb, '{"events_deleted": 1000}')::text`, `{"gap_ms":1000,"points":[`+strings.Join(points, ",")+`]}`)
	var thinned struct {
		Gap    int64      `json:"gap_ms"`
		Points [][2]int64 `json:"points"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &thinned))
	require.EqualValues(t, 2000, thinned.Gap)
	require.Len(t, thinned.Points, 101)
	require.Equal(t, [][2]int64{{0, 0}, {1000, 1}, {3000, 3}}, thinned.Points[:3])
	require.EqualValues(t, 1000, thinned.Points[100][1])
	require.Equal(t, text, storetest.One[string](l.Lab, `SELECT lethe.add_sample($1::text::jsonb, '{"events_deleted": 1001}')::text`, text))
}
