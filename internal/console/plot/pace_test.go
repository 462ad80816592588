package plot

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPace(t *testing.T) {
	t.Parallel()
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	r := PaceOf(noon, []Point{{at(-5), 3}, {at(10), 100}, {at(10), 200}, {at(5), 300}, {at(20), 50}, {at(30), 1100}, {at(40), 1100}})
	require.Len(t, r.Bars, 3)
	require.InDelta(t, 10, r.Bars[0].Rate, 0.001)
	require.InDelta(t, 50, r.Bars[1].Rate, 0.001)
	require.InDelta(t, 250, r.Bars[1].X, 0.001)
	require.InDelta(t, 500, r.Bars[1].Width, 0.001)
	require.InDelta(t, 100, r.Bars[1].Height, 0.001)
	require.Zero(t, r.Bars[2].Height, "a pause")
	require.Equal(t, at(40), r.To)
	require.Empty(t, PaceOf(noon, nil).Bars)
	require.Empty(t, PaceOf(noon, []Point{{at(1), 0}}).Bars)
}

func TestPaceStaysWithinItsEdges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		moment := rapid.Custom(func(rt *rapid.T) time.Time {
			return noon.Add(time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(rt, "ns")))
		})
		points := rapid.SliceOf(rapid.Custom(func(rt *rapid.T) Point {
			return Point{moment.Draw(rt, "at"), rapid.Int64().Draw(rt, "done")}
		})).Draw(rt, "points")
		r := PaceOf(moment.Draw(rt, "start"), points)
		for _, bar := range r.Bars {
			for _, n := range []float64{bar.X, bar.Y, bar.Width, bar.Height, bar.Rate} {
				require.False(rt, math.IsNaN(n) || math.IsInf(n, 0) || n < 0)
			}
			require.LessOrEqual(rt, bar.X+bar.Width, r.Width+0.001)
			require.LessOrEqual(rt, bar.Y+bar.Height, r.Height+0.001)
			require.LessOrEqual(rt, bar.Rate, r.Top)
		}
	})
}
