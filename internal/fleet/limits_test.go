package fleet_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/fleet"
	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
	"lethe/internal/store/control"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

func TestLimitOfAKindTakesThePlaceOfTheSettings(t *testing.T) {
	t.Parallel()
	l := storetest.New(t, schema.Worker)
	client, err := redisdb.Open(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	operator := control.New(storetest.OnAs(t, l.URL, schema.API).DB)
	one, other := fleet.New(l.DB, client, slog.New(slog.DiscardHandler), 50), fleet.New(l.DB, client, slog.New(slog.DiscardHandler), 50)
	require.Equal(t, 50, one.Rate(jobs.PurgeHistory, true))
	require.Zero(t, one.Rate(jobs.PurgeHistory, false))
	require.Zero(t, one.Take(l.Ctx, jobs.PurgeHistory, false, 1e9), "the settings do not limit what operators ask for")

	_, err = operator.SetLimit(l.Ctx, control.Limit{Kind: jobs.PurgeHistory, RowsPerSecond: new(100)})
	require.NoError(t, err)
	for _, limits := range []*fleet.Limits{one, other} {
		require.NoError(t, limits.Read(l.Ctx))
		require.Equal(t, 100, limits.Rate(jobs.PurgeHistory, false))
		require.Equal(t, 100, limits.Rate(jobs.PurgeHistory, true))
		require.Equal(t, 50, limits.Rate(jobs.DeleteRoom, true))
		require.Zero(t, limits.Rate(jobs.DeleteRoom, false))
	}
	require.Zero(t, one.Take(l.Ctx, jobs.PurgeHistory, false, 100), "a second's worth is there")
	require.InDelta(t, 2, other.Take(l.Ctx, jobs.PurgeHistory, true, 200).Seconds(), 0.5, "all jobs of the kind share it")
	require.Zero(t, one.Take(l.Ctx, jobs.DeleteRoom, true, 10), "and no others")

	_, err = operator.SetLimit(l.Ctx, control.Limit{Kind: jobs.PurgeHistory, RowsPerSecond: new(0)})
	require.NoError(t, err)
	require.NoError(t, one.Read(l.Ctx))
	require.Zero(t, one.Take(l.Ctx, jobs.PurgeHistory, true, 1e9), "0 is any number, for sweeps too")

	l.Exec(`ALTER TABLE lethe.fleet RENAME TO hidden`)
	require.Error(t, one.Read(l.Ctx))
	require.Zero(t, one.Rate(jobs.PurgeHistory, true), "the last limit stays")
}

func TestWatchSeesAChangeInTime(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	client, err := redisdb.Open(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	limits := fleet.New(l.DB, client, slog.New(slog.DiscardHandler), 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		limits.Watch(l.Ctx)
	}()
	_, err = control.New(l.DB).SetLimit(l.Ctx, control.Limit{Kind: jobs.DeleteRoom, RowsPerSecond: new(9)})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return limits.Rate(jobs.DeleteRoom, false) == 9 }, 5*time.Second, 50*time.Millisecond)
	select {
	case <-done:
		t.Fatal("it has ended")
	default:
	}
}
