package plot

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func TestRateSpreadsEvents(t *testing.T) {
	t.Parallel()
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	r := RateOf([]Run{
		{From: minute(-3), To: minute(-1), Events: 1200}, // 10/s in two bars
		{From: minute(-2), To: minute(-1), Events: 600},  // and 10/s more in one
		{From: minute(-90), To: minute(-60), Events: 1e9},
		{From: minute(1), To: minute(2), Events: 1e9},
		{From: minute(-5), To: minute(-4), Events: 0},
	}, noon, time.Minute, 60)
	require.Len(t, r.Bars, 2)
	require.InDelta(t, 10, r.Bars[0].Rate, 0.01)
	require.InDelta(t, 20, r.Bars[1].Rate, 0.01)
	require.Equal(t, minute(-3), r.Bars[0].From)
	require.InDelta(t, 570, r.Bars[0].X, 0.01)
	require.InDelta(t, 20, r.Top, 0)
	require.InDelta(t, 50, r.Bars[0].Height, 0.01)

	// A run that began before the picture is in it with its part alone.
	r = RateOf([]Run{{From: minute(-120), To: noon, Events: 7200}}, noon, time.Minute, 60)
	require.Len(t, r.Bars, 60)
	for _, bar := range r.Bars {
		require.InDelta(t, 1, bar.Rate, 0.001)
	}
	require.Zero(t, RateOf(nil, noon, time.Minute, 60).Top)
}

func TestPicturesStayWithinTheirEdges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		moment := rapid.Custom(func(rt *rapid.T) time.Time {
			return noon.Add(time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(rt, "ns")))
		})
		runs := rapid.SliceOf(rapid.Custom(func(rt *rapid.T) Run {
			return Run{moment.Draw(rt, "from"), moment.Draw(rt, "to"), rapid.Int64().Draw(rt, "events")}
		})).Draw(rt, "runs")
		r := RateOf(runs, noon, time.Minute, 60)
		for _, bar := range r.Bars {
			for _, n := range []float64{bar.X, bar.Y, bar.Width, bar.Height, bar.Rate} {
				require.False(rt, math.IsNaN(n) || math.IsInf(n, 0) || n < 0)
			}
			require.LessOrEqual(rt, bar.X+bar.Width, r.Width)
			require.LessOrEqual(rt, bar.Y+bar.Height, r.Height)
			require.LessOrEqual(rt, bar.Rate, r.Top)
		}
		changes := rapid.SliceOf(rapid.Custom(func(rt *rapid.T) Change {
			return Change{moment.Draw(rt, "at"), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "what")}
		})).Draw(rt, "changes")
		for _, span := range SpansOf(changes, moment.Draw(rt, "end")) {
			require.GreaterOrEqual(rt, span.X, 0.0)
			require.GreaterOrEqual(rt, span.Width, 0.0)
			require.LessOrEqual(rt, span.X+span.Width, SpansWidth+0.001)
		}
	})
}

func TestSpansCoverTheWhole(t *testing.T) {
	t.Parallel()
	spans := SpansOf([]Change{
		{noon, "queued"}, {noon.Add(time.Minute), "running"}, {noon.Add(2 * time.Minute), "running"}, {noon.Add(3 * time.Minute), "paused"},
	}, noon.Add(4*time.Minute))
	require.Len(t, spans, 3)
	require.Equal(t, []string{"queued", "running", "paused"}, []string{spans[0].What, spans[1].What, spans[2].What})
	require.InDelta(t, 250, spans[0].Width, 0.01)
	require.InDelta(t, 500, spans[1].Width, 0.01)
	require.InDelta(t, 750, spans[2].X, 0.01)
	require.Equal(t, noon.Add(3*time.Minute), spans[1].To)
	require.Nil(t, SpansOf(nil, noon))
}
