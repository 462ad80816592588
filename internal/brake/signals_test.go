package brake

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/promquery"
	"lethe/internal/store/pressure"
)

func TestShares(t *testing.T) {
	t.Parallel()
	both, soft := limits(2, 7), softly(2)
	for _, c := range []struct {
		signal Signal
		value  float64
		limits Limits
		want   float64
	}{
		{StandbySeconds, 1.9, both, 1},
		{StandbySeconds, 2, both, 1},
		{StandbySeconds, 4.5, both, 0.25},
		{StandbySeconds, 6.9, both, minShare},
		{StandbySeconds, 7, both, 0},
		{StandbySeconds, 100, soft, 0.25},
		{StandbySeconds, 100, Limits{}, 1},
		{StandbySeconds, 1, Limits{Hard: both.Hard}, 1},
		{StandbySeconds, 8, Limits{Hard: both.Hard}, 0},
		{DiskBytes, 11, limits(10, 2), 1},
		{DiskBytes, 6, limits(10, 2), 0.25},
		{DiskBytes, 2, limits(10, 2), 0},
		{DiskBytes, 1, limits(10, 2), 0},
	} {
		require.InDelta(t, c.want, kindOf(c.signal).share(c.value, c.limits), 1e-9, "%+v", c)
	}
}

// A server that keeps less WAL for slots than the usual limits would have reached them with
// nothing to do.
func TestLimitsOfSlotsAreWithinWhatTheServerKeeps(t *testing.T) {
	t.Parallel()
	slots := kindOf(SlotBytes)
	for _, keeps := range []float64{1 << 20, 256 << 20, 1 << 30, 3 << 30, 1 << 40} {
		within := slots.limits.within(keeps)
		require.NoError(t, within.Check(SlotBytes))
		require.InDelta(t, 1, slots.share(keeps, within), 1e-9, keeps)
		require.LessOrEqual(t, *within.Soft, *slots.limits.Soft)
		require.LessOrEqual(t, *within.Hard, *slots.limits.Hard)
	}
	require.Equal(t, slots.limits, slots.limits.within(1<<40))
}

func TestLimitsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	negative, zero := -1.0, 0.0
	require.Error(t, Limits{Soft: &negative}.Check(StandbySeconds))
	require.NoError(t, Limits{Soft: &negative}.Check(Query))
	require.NoError(t, Limits{Hard: &zero}.Check(StandbySeconds))
	require.Error(t, limits(7, 2).Check(StandbySeconds))
	require.Error(t, limits(7, 7).Check(StandbySeconds))
	require.NoError(t, limits(2, 7).Check(StandbySeconds))
	require.Error(t, limits(2, 7).Check(SlotBytes))
	require.NoError(t, limits(7, 2).Check(SlotBytes))
	for _, signal := range Signals() {
		require.NoError(t, Default(signal).Check(signal), signal)
		parsed, err := ParseSignal(string(signal))
		require.NoError(t, err)
		require.Equal(t, signal, parsed)
	}
	_, err := ParseSignal("standby")
	require.ErrorContains(t, err, "standby_seconds")
}

// On a slow server the smallest batch takes longer than a batch should. The pause after it
// is longer then, or jobs would work for nearly all of their time.
func TestAPauseIsAsLongAsTheShareDemands(t *testing.T) {
	t.Parallel()
	b := New(nil, Options{BatchTime: 200 * time.Millisecond})
	require.Equal(t, 150*time.Millisecond, b.rest(0.25), "no batch was done yet")
	b.Worked(50 * time.Millisecond)
	require.Equal(t, 150*time.Millisecond, b.rest(0.25), "the batch took the share of its time")
	b.Worked(time.Second)
	require.Equal(t, 3*time.Second, b.rest(0.25))
	b.Worked(time.Minute)
	require.Equal(t, 5*time.Second, b.rest(0.25))
	(*Brake)(nil).Worked(time.Second)
}

// A Prometheus that does not answer must not make each look late.
func TestAQueryThatFailsRests(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(server.Close)
	query, err := promquery.New(server.URL, "up")
	require.NoError(t, err)
	t.Cleanup(query.Close)
	b, now := New(nil, Options{Query: query}), time.Now()
	for _, passed := range []time.Duration{0, time.Second, 9 * time.Second, 10 * time.Second, 19 * time.Second} {
		require.NotContains(t, b.figures(t.Context(), now.Add(passed), pressure.Look{}), Query)
	}
	require.EqualValues(t, 2, asked.Load())
}

func TestSignalsInWords(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct {
		signal Signal
		value  float64
		about  string
	}{
		"standby one is 14.1 s behind":                         {StandbySeconds, 14.14, "one"},
		"standby one has 2.1 GB of WAL to replay":              {StandbyBytes, 1 << 31, "one"},
		"the replication slot s is lost after 0 B more of WAL": {SlotBytes, 0, "s"},
		"autovacuum is at no table of the homeserver":          {Autovacuums, 0, ""},
		"autovacuum works on events":                           {Autovacuums, 1, "events"},
		"10.5 GB are free at /data":                            {DiskBytes, 10.5e9, "/data"},
		"brake.prometheus_query returned -0.5":                 {Query, -0.5, ""},
	} {
		require.Equal(t, want, kindOf(c.signal).says(c.value, c.about))
	}
	require.Equal(t, "a, b, c and 2 other tables", vacuumed([]string{"a", "b", "c", "d", "e"}))
	require.Equal(t, "a, b, c and 1 other table", vacuumed([]string{"a", "b", "c", "d"}))
}
