package journal_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// Only jobs that ended long enough ago are pruned, and of these not those that
// something still needs.
func TestPrune(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	const day = 24 * time.Hour
	// A job that was made a year ago and, unless it is open, ended so long ago.
	add := func(room, state string, ago time.Duration) string {
		id := jobs.NewID()
		l.Exec(`
			INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, created_at, updated_at, ended_at, heartbeat_at, error, checkpoint)
			SELECT $1, 'purge_history', $2, '{}', '@admin:x', $3, now() - interval '1 year', now() - interval '1 year',
			       CASE WHEN $3 IN ('complete', 'failed', 'cancelled') THEN clock_timestamp() - $4::interval END,
			       CASE $3 WHEN 'running' THEN now() - interval '1 year' END, CASE $3 WHEN 'failed' THEN 'why' END,
			       CASE $3 WHEN 'absorbed' THEN jsonb_build_object('absorbed_by', (
			           SELECT id FROM lethe.jobs WHERE room_id = $2 AND state = 'complete')) END`, id, room, state, ago)
		return id
	}
	var kept, pruned []string
	for _, state := range []string{"complete", "failed", "cancelled"} {
		kept = append(kept, add("!a:x", state, 90*day-time.Hour))
		pruned = append(pruned, add("!a:x", state, 90*day+time.Hour))
	}
	for _, state := range []string{"queued", "running", "held"} {
		kept = append(kept, add("!b:x", state, 0))
	}
	kept = append(kept, add("!c:x", "complete", 400*day))
	kept = append(kept, add("!c:x", "absorbed", 0))
	sweep := add("", "complete", 300*day)
	kept = append(kept, sweep)
	l.Exec(`INSERT INTO lethe.schedules (job, last_tick, outcome, sweep_id) VALUES ('all', now(), 'accepted', $1)`, sweep)
	_, err := l.Holds.Place(l.Ctx, "!b:x", "case 7", "@counsel:x")
	require.NoError(t, err)
	others := l.Dump("public", "lethe")

	for _, want := range []int{2, 1, 0} { // at most as many as it may
		n, err := l.Journal.Prune(l.Ctx, 90*day, 2)
		require.NoError(t, err)
		require.Equal(t, want, n)
	}
	require.ElementsMatch(t, kept, storetest.All[string](l, `SELECT id FROM lethe.jobs`))
	for _, id := range pruned {
		_, err := l.Journal.Job(l.Ctx, id)
		require.Error(t, err)
	}
	now := l.Dump("public", "lethe")
	for _, table := range []string{"lethe.jobs", "lethe.job_events"} {
		delete(others, table)
		delete(now, table)
	}
	require.ElementsMatch(t, kept, storetest.All[string](l, `SELECT DISTINCT job_id FROM lethe.job_events`), "the logs go with their jobs")
	require.Equal(t, others, now, "holds and schedules stay")

	// Its absorber may go once it has been settled.
	l.Exec(`UPDATE lethe.jobs SET state = 'complete', ended_at = now() WHERE state = 'absorbed'`)
	n, err := l.Journal.Prune(l.Ctx, 90*day, 9)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, journal.Complete, l.Job(sweep).State)
}

func TestPruneTakesTheOldestFirst(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, ended_at)
		SELECT repeat(chr(64 + n), 16), 'purge_history', '!a:x', '{}', 'x', 'complete', now() - make_interval(days => n)
		FROM generate_series(1, 20) n`)
	n, err := l.Journal.Prune(l.Ctx, 36*time.Hour, 5)
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.Equal(t, 15.0, storetest.One[float64](l, `SELECT round(extract(epoch FROM now() - min(ended_at)) / 86400)::float8 FROM lethe.jobs`))
}
