package brake

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/pressure"
)

// A run is a server that writes, and a standby that replays, in bytes per second.
type run struct {
	meter             *lagMeter
	now               time.Time
	written, replayed int64
}

// step passes a second, and returns how many seconds the standby is behind.
func (r *run) step(t *testing.T, writes, replays int64) float64 {
	t.Helper()
	r.now = r.now.Add(time.Second)
	r.written += writes
	r.replayed = min(r.replayed+replays, r.written)
	lags := r.meter.look(r.now, pressure.Look{Written: &r.written, Standbys: []pressure.Standby{{Name: "one", Replayed: r.replayed}}}, nil)
	require.Len(t, lags, 1)
	require.Equal(t, r.written-r.replayed, lags[0].bytes)
	return lags[0].seconds
}

func newRun() *run { return &run{meter: newLagMeter(), now: time.Unix(1_700_000_000, 0)} }

// A standby that replays a fifth of what is written needs four seconds more with each
// second, and they count from the first: when the last of it is replayed, it is too late.
func TestLagIsWhatAStandbyNeeds(t *testing.T) {
	t.Parallel()
	r := newRun()
	require.Zero(t, r.step(t, 0, 100))
	for second := range 10 {
		require.InDelta(t, 4*float64(second+1), r.step(t, 500, 100), 0.5)
	}
	for range 39 {
		require.Positive(t, r.step(t, 0, 100))
	}
	require.Zero(t, r.step(t, 0, 100))
}

// After a failover, or on another server behind the same name, positions may begin lower.
// A standby is not behind by what only the server before had written.
func TestAServerThatHasWrittenLess(t *testing.T) {
	t.Parallel()
	r := newRun()
	for range 60 {
		r.step(t, 1000, 1000)
	}
	r.written, r.replayed = 0, 0
	for range 5 {
		require.Less(t, r.step(t, 1000, 900), 5.0)
	}
}

// A standby that was idle is not slow.
func TestIdleTimeIsNoSlowness(t *testing.T) {
	t.Parallel()
	r := newRun()
	for range 60 {
		require.Zero(t, r.step(t, 0, 0))
	}
	require.Less(t, r.step(t, 1000, 900), 0.2)
}

// A standby that replays nothing is behind by the age of the first byte that it lacks.
func TestStalledStandby(t *testing.T) {
	t.Parallel()
	r := newRun()
	r.step(t, 100, 100)
	for second := range 100 {
		require.InDelta(t, float64(second), r.step(t, 10, 0), 0.01)
	}
}

func TestWantedStandbys(t *testing.T) {
	t.Parallel()
	m, now, written := newLagMeter(), time.Unix(1_700_000_000, 0), int64(1000)
	look := func(after time.Duration, hidden bool, seen ...pressure.Standby) map[string]float64 {
		now = now.Add(after)
		lags := map[string]float64{}
		for _, lag := range m.look(now, pressure.Look{Written: &written, Standbys: seen, Hidden: hidden}, []string{"one", "two"}) {
			lags[lag.name] = lag.seconds
		}
		return lags
	}
	one, other := pressure.Standby{Name: "one", Replayed: 1000}, pressure.Standby{Name: "other", Replayed: 1}
	require.Equal(t, map[string]float64{"one": 0, "two": 0}, look(time.Second, false, one, other), "a process has just begun")
	require.Equal(t, map[string]float64{"one": 0, "two": 5}, look(5*time.Second, false, one))
	require.Equal(t, map[string]float64{"one": 3, "two": 8}, look(3*time.Second, false))
	require.Empty(t, look(time.Second, true), "the role does not see who is connected")
	require.Equal(t, map[string]float64{"one": 0, "two": 10}, look(time.Second, false, one))
}

// Standbys that share a name are as far as the last of them.
func TestStandbysWithTheSameName(t *testing.T) {
	t.Parallel()
	m, written := newLagMeter(), int64(1000)
	lags := m.look(time.Unix(1, 0), pressure.Look{Written: &written, Standbys: []pressure.Standby{
		{Name: "walreceiver", Replayed: 900}, {Name: "walreceiver", Replayed: 100}, {Name: "b", Replayed: 1000},
	}}, nil)
	require.Len(t, lags, 2)
	require.Equal(t, int64(900), lags[1].bytes)
	require.Nil(t, m.look(time.Unix(2, 0), pressure.Look{}, nil), "a standby knows no other")
}
