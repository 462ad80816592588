package journal_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// The time of a wait is that of its reason. Only sessions that have a lock may take turns:
// a job that never gets a lock must give up, however many sessions keep it waiting.
func TestYieldKeepsTheTimeOfAWait(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	id := l.Queue(room)
	yield := func(waitsFor string) time.Duration {
		require.NoError(t, l.Journal.YieldJob(l.Ctx, l.Claim(id), journal.Yield{WaitsFor: waitsFor}))
		require.Equal(t, waitsFor, l.Job(id).WaitsFor)
		return l.Job(id).WaitsSince
	}
	age := func() { l.Exec(`UPDATE lethe.jobs SET waits_since = waits_since - interval '1 hour'`) }
	require.Less(t, yield("waiting: for Synapse"), time.Hour)
	age()
	require.Greater(t, yield("waiting: for Synapse"), time.Hour)
	require.Less(t, yield(postgres.WaitsForLock+"pid 1"), time.Hour)
	age()
	require.Greater(t, yield(postgres.WaitsForLock+"pid 2"), time.Hour)
	require.Less(t, yield("waiting: for Synapse"), time.Hour)
	require.Zero(t, yield(""))
}
