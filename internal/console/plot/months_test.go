package plot

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestMonths(t *testing.T) {
	t.Parallel()
	month := func(n int) time.Time { return time.Date(2026, time.Month(1+n), 1, 0, 0, 0, 0, time.UTC) }
	m := MonthsOf([]Count{{month(0), 100}, {month(-14), 50}, {month(-61), 7}, {month(1), 7}, {month(-2), 0}}, noon)
	require.Equal(t, []time.Time{month(-14), month(0)}, []time.Time{m.From, m.To})
	require.InDelta(t, 150, m.Width, 0)
	require.Len(t, m.Bars, 2)
	require.InDelta(t, 100, m.Top, 0)
	require.InDelta(t, 140, m.Bars[0].X, 0)
	require.InDelta(t, 50, m.Bars[1].Height, 0)
	m = MonthsOf(nil, noon)
	require.Empty(t, m.Bars)
	require.Equal(t, month(-11), m.From, "a year at least")
}

func TestMonthsStayWithinTheirEdges(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		moment := rapid.Custom(func(rt *rapid.T) time.Time {
			return noon.AddDate(0, rapid.IntRange(-2000, 2000).Draw(rt, "months"), 0)
		})
		counts := rapid.SliceOf(rapid.Custom(func(rt *rapid.T) Count {
			return Count{moment.Draw(rt, "month"), rapid.Int64().Draw(rt, "events")}
		})).Draw(rt, "counts")
		m := MonthsOf(counts, noon)
		require.LessOrEqual(rt, m.Width, 600.0)
		for _, bar := range m.Bars {
			for _, n := range []float64{bar.X, bar.Y, bar.Width, bar.Height} {
				require.False(rt, math.IsNaN(n) || math.IsInf(n, 0) || n < 0)
			}
			require.LessOrEqual(rt, bar.X+bar.Width, m.Width)
			require.LessOrEqual(rt, bar.Y+bar.Height, m.Height)
		}
	})
}
