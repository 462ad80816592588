package vacuum

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/store/storetest"
	"lethe/internal/store/vacuum"
)

func TestTheTablesOfAnEndedJobAreVacuumed(t *testing.T) {
	t.Parallel()
	l := setup(t)
	before := l.vacuums()
	id := l.purged(true)
	l.runs(l.vacuumer(nil))
	phase := l.awaits(id, ended)
	require.Len(t, phase.Tables, 1)
	events := phase.Table("events")
	require.Equal(t, vacuum.Done, events.State, events.Reason)
	require.Positive(t, events.Seconds)
	require.Positive(t, events.Pages)
	l.vacuumed(before + 1)
	require.Zero(t, storetest.One[int64](l.Lab, `SELECT pg_stat_get_dead_tuples('events'::regclass)`))
	require.Equal(t, vacuum.Done, phase.Walk.State, phase.Walk.Reason)
	require.Equal(t, 1.0, value(t, l.metrics.Vacuums.WithLabelValues("done")))

	// Five sixths of the rows are gone, and their space is free.
	require.InDelta(t, float64(events.Pages*8192)*5/6, events.Space.Reusable, float64(events.Pages*8192)/5)
	require.Greater(t, events.Space.Rewrite, events.Space.Reusable, "which shrinks the indexes too")
	require.Zero(t, events.Space.Returnable, "the last pages have rows")

	require.Empty(t, storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs WHERE vacuumed IS DISTINCT FROM generation`))
}

// VACUUM without TRUNCATE false would take the lock that keeps all readers out, to return
// the pages at the end of the table.
func TestTheTablesFileDoesNotShrink(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const size = `SELECT pg_relation_size('events'::regclass)`
	before := storetest.One[int64](l.Lab, size)
	id := l.purged(false)
	l.runs(l.vacuumer(nil))
	events := l.awaits(id, ended).Table("events")
	require.Equal(t, vacuum.Done, events.State, events.Reason)
	require.Equal(t, before, storetest.One[int64](l.Lab, size))
	l.Exec(`VACUUM events`)
	returned := before - storetest.One[int64](l.Lab, size)
	require.Positive(t, returned)
	require.LessOrEqual(t, events.Space.Returnable, returned)
	require.Greater(t, 2*events.Space.Returnable, returned-2*8192, "it is found to a factor of two")
}

// Readers meet the entries of dead rows in the indexes, so a VACUUM must not leave them there.
func TestAVacuumClearsTheIndexes(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.SkipWalk = true }))
	events := l.awaits(id, ended).Table("events")
	require.Equal(t, vacuum.Done, events.State, events.Reason)
	read, pages := l.readEdge()
	require.Less(t, read, pages/4)
}

// A worker that has vacuumed gives the right to do so back, whatever else it waits for.
func TestTheRightToVacuumIsGivenBack(t *testing.T) {
	t.Parallel()
	l := setup(t)
	first := l.purged(true)
	v := l.vacuumer(nil)
	require.NoError(t, v.round(l.Ctx))
	defer v.close()
	require.True(t, l.phase(first).Ended())
	require.NotNil(t, v.session, "it is still connected")

	second := l.Queue(room)
	l.end(l.Claim(second), map[string]int64{"events": 1000}, 1)
	other := l.vacuumer(nil)
	require.NoError(t, other.round(l.Ctx))
	defer other.close()
	require.True(t, l.phase(second).Ended())
}

func TestATableThatIsLockedIsSkipped(t *testing.T) {
	t.Parallel()
	l := setup(t)
	other := l.connect()
	tx, err := other.Begin(l.Ctx)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `LOCK TABLE events IN SHARE UPDATE EXCLUSIVE MODE`) // as a VACUUM does
	require.NoError(t, err)
	before, id := l.vacuums(), l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.URL = l.url + "&client_min_messages=error" })) // as a role may have it
	events := l.awaits(id, ended).Table("events")
	require.Equal(t, vacuum.Skipped, events.State)
	require.Contains(t, events.Reason, "has a lock on it: ShareUpdateExclusiveLock of process ")
	require.Equal(t, before, l.vacuums())
	require.NoError(t, tx.Rollback(l.Ctx))
}

// A homeserver that changes its schema would wait for a VACUUM to its end, and all readers
// of the table behind it.
func TestAVacuumGivesWayToASessionThatWaits(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	l.runs(l.vacuumer(slow))
	require.Eventually(t, func() bool { return l.at() == 1 }, time.Minute, 5*time.Millisecond)

	ctx, cancel := context.WithTimeout(l.Ctx, 20*time.Second)
	defer cancel()
	_, err := l.connect().Exec(ctx, `ALTER TABLE events ADD COLUMN added text`)
	require.NoError(t, err)
	events := l.awaits(id, ended).Table("events")
	require.Equal(t, vacuum.Skipped, events.State)
	require.Equal(t, "it was cancelled, because another session waited for a lock of the table", events.Reason)
}

func TestARoleThatMayNotVacuumWalks(t *testing.T) {
	t.Parallel()
	l := setup(t)
	plain := devstacktest.AsPlainRole(t, l.url)
	before, id := l.vacuums(), l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.URL, o.WorkerURL = plain, plain }))
	phase := l.awaits(id, ended)
	events := phase.Table("events")
	require.Equal(t, vacuum.Skipped, events.State)
	require.Contains(t, events.Reason, "the role plain_")
	require.Contains(t, events.Reason, "may not vacuum it: lethe doctor --for vacuum")
	require.Equal(t, before, l.vacuums())
	require.Equal(t, vacuum.Done, phase.Walk.State, phase.Walk.Reason)
	require.NotNil(t, events.Space)

	read, pages := l.readEdge()
	require.Less(t, read, pages, "no entry leads to the table any more")
}

func TestWithoutAWalkTheEntriesLeadToTheTable(t *testing.T) {
	t.Parallel()
	l := setup(t)
	plain := devstacktest.AsPlainRole(t, l.url)
	id := l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.URL, o.WorkerURL, o.SkipWalk = plain, plain, true }))
	require.Nil(t, l.awaits(id, ended).Walk)
	read, pages := l.readEdge()
	require.Greater(t, read, pages, "or the other test would prove nothing")
	// A snapshot of an autovacuum can keep a reader from marking what it finds dead.
	require.Eventually(t, func() bool {
		read, pages = l.readEdge()
		return read < pages
	}, time.Minute, 20*time.Millisecond, "earlier readers have done the work of the walk")
}

func TestARoleOfItsOwnVacuums(t *testing.T) {
	t.Parallel()
	l := setup(t)
	plain := devstacktest.AsPlainRole(t, l.url)
	id := l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.WorkerURL = plain }))
	events := l.awaits(id, ended).Table("events")
	require.Equal(t, vacuum.Done, events.State, events.Reason)
}

func TestARoleThatCannotConnectIsNamed(t *testing.T) {
	t.Parallel()
	l := setup(t)
	plain := devstacktest.AsPlainRole(t, l.url)
	wrong, err := url.Parse(l.url)
	require.NoError(t, err)
	wrong.User = url.UserPassword("nobody_of_this_name", "hunter2")
	id := l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.URL, o.WorkerURL = wrong.String(), plain }))
	phase := l.awaits(id, ended)
	require.Contains(t, phase.Table("events").Reason, "vacuum.database_url cannot be used: ")
	require.NotContains(t, phase.Table("events").Reason, "hunter2")
	require.Equal(t, vacuum.Done, phase.Walk.State)
}

func TestAnotherDatabaseIsNotVacuumed(t *testing.T) {
	t.Parallel()
	l, other := setup(t), setup(t)
	plain := devstacktest.AsPlainRole(t, l.url)
	before, id := other.vacuums(), l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.URL, o.WorkerURL = other.url, plain }))
	require.Contains(t, l.awaits(id, ended).Table("events").Reason, vacuum.ErrOtherDatabase.Error())
	require.Equal(t, before, other.vacuums())
}

// slow makes a VACUUM take as long as the test wants.
func slow(o *Options) { o.CostDelay, o.CostLimit = 100*time.Millisecond, 1 }

func TestOneWorkerVacuumsAtATime(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	stop := l.runs(l.vacuumer(slow))
	l.awaits(id, running)
	require.Eventually(t, func() bool { return l.at() == 1 }, time.Minute, 5*time.Millisecond)
	require.Equal(t, "complete", string(l.Job(id).State), "the job does not wait for it")

	second := l.vacuumer(nil)
	require.NoError(t, second.round(l.Ctx))
	require.NoError(t, second.round(l.Ctx))
	require.EqualValues(t, 1, l.at(), "the second waits")
	require.True(t, running(*l.phase(id)))

	stopped := time.Now()
	stop() // as when the first worker drains
	require.Less(t, time.Since(stopped), 20*time.Second, "it does not wait for the end of the VACUUM, which takes a minute")
	require.Zero(t, l.at(), "its VACUUM is cancelled")
	phase := l.phase(id)
	require.Equal(t, vacuum.Waiting, phase.Table("events").State)
	require.Equal(t, 1.0, value(t, l.metrics.Vacuums.WithLabelValues("stopped")))

	require.NoError(t, second.round(l.Ctx))
	second.close()
	require.Equal(t, vacuum.Done, l.phase(id).Table("events").State)
}

func TestAnotherWorkerGoesOnWhereOneWasKilled(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	first := l.vacuumer(slow)
	ctx, cancel := context.WithCancel(l.Ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- first.round(ctx) }()
	l.awaits(id, running)
	require.Eventually(t, func() bool { return l.at() == 1 }, time.Minute, 5*time.Millisecond)
	// What a killed worker leaves: its session ends, and its last words stay in the row.
	l.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_progress_vacuum WHERE datname = current_database() AND relid = 'events'::regclass`)
	require.Error(t, <-failed)
	first.close()
	require.Equal(t, vacuum.Running, l.phase(id).Table("events").State)

	l.runs(l.vacuumer(nil))
	require.Equal(t, vacuum.Done, l.awaits(id, ended).Table("events").State)
}

func TestATableThatTakesTooLongIsSkipped(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { slow(o); o.Timeout = 50 * time.Millisecond }))
	events := l.awaits(id, ended).Table("events")
	require.Equal(t, vacuum.Skipped, events.State)
	require.Equal(t, "it took longer than 50ms", events.Reason)
	require.Zero(t, l.at())
}

func TestTablesWaitForOlderSnapshots(t *testing.T) {
	t.Parallel()
	l := setup(t)
	other := l.connect()
	tx, err := other.Begin(l.Ctx)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `SELECT FROM events LIMIT 1`)
	require.NoError(t, err)
	id := l.purged(true)
	stop := l.runs(l.vacuumer(nil))
	phase := l.awaits(id, func(p vacuum.Phase) bool { return p.WaitsFor != "" })
	require.Regexp(t, `^snapshot: session \d+ of the role .* may still see the deleted rows$`, phase.WaitsFor)
	require.Equal(t, vacuum.Waiting, phase.State)
	stop()

	late := l.vacuumer(func(o *Options) { o.SnapshotWait = 0 })
	require.NoError(t, tx.Rollback(l.Ctx))
	l.runs(late)
	phase = l.awaits(id, ended)
	require.Equal(t, vacuum.Done, phase.Table("events").State, "nothing sees the rows by now")
	require.Empty(t, phase.WaitsFor)
}

func TestTablesDoNotWaitForOlderSnapshotsForEver(t *testing.T) {
	t.Parallel()
	l := setup(t)
	other := l.connect()
	tx, err := other.Begin(l.Ctx)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `INSERT INTO rooms (room_id) VALUES ('!other:x')`) // it has an older id than the deletes
	require.NoError(t, err)
	before, id := l.vacuums(), l.purged(true)
	l.runs(l.vacuumer(func(o *Options) { o.SnapshotWait = 0 }))
	phase := l.awaits(id, ended)
	require.Equal(t, vacuum.Skipped, phase.Table("events").State)
	require.Contains(t, phase.Table("events").Reason, "may still see the deleted rows")
	require.Equal(t, vacuum.Skipped, phase.Walk.State)
	require.Equal(t, before, l.vacuums())
	require.NoError(t, tx.Rollback(l.Ctx))
}

func TestFewDeadRowsAreLeftToAutovacuum(t *testing.T) {
	t.Parallel()
	l := setup(t)
	before := l.vacuums()
	first := l.purged(true)
	stop := l.runs(l.vacuumer(func(o *Options) { o.MinRows = events }))
	require.Equal(t, "5,000 dead rows are fewer than vacuum.min_rows", l.awaits(first, ended).Table("events").Reason)
	stop()
	second := l.Queue(room)
	l.end(l.Claim(second), map[string]int64{"events": 1}, 1)
	l.runs(l.vacuumer(func(o *Options) { o.DeadShare = 0.9 }))
	require.Contains(t, l.awaits(second, ended).Table("events").Reason, "% of its rows are dead, less than vacuum.dead_share")
	require.Equal(t, before, l.vacuums())
}

func TestAJobThatHasDeletedNothingHasNoVacuum(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue(room)
	l.end(l.Claim(id), map[string]int64{}, 1)
	v := l.vacuumer(nil)
	require.NoError(t, v.round(l.Ctx))
	v.close()
	require.Nil(t, l.phase(id))
	due, err := vacuum.New(l.DB).Due(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, due)
}

// The purges of a sweep are vacuumed together, when all of them have ended.
func TestTheJobsOfASweepAreVacuumedTogether(t *testing.T) {
	t.Parallel()
	l := setup(t)
	low := func(id string) { l.Exec(`UPDATE lethe.jobs SET queue = 'low' WHERE id = $1`, id) }
	first := l.purged(true)
	low(first)
	second := jobs.NewID()
	require.NoError(t, l.Journal.InsertJob(l.Ctx, storetest.NewJob(second, "!other:x"), false))
	low(second)
	before := l.vacuums()
	v := l.vacuumer(nil)
	require.NoError(t, v.round(l.Ctx))
	require.Nil(t, l.phase(first), "the other has not ended")

	l.end(l.Claim(second), map[string]int64{"events": 100}, 1)
	require.NoError(t, v.round(l.Ctx))
	v.close()
	for _, id := range []string{first, second} {
		require.Equal(t, vacuum.Done, l.phase(id).Table("events").State)
	}
	l.vacuumed(before + 1)
}

// Each of many small purges leaves few dead rows.
func TestTheDeadRowsOfJobsAreAddedUp(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var ids []string
	for range 3 {
		ids = append(ids, l.Queue(room))
		l.end(l.Claim(ids[len(ids)-1]), map[string]int64{"events": 400}, 1) // of which the statistics know nothing yet
	}
	v := l.vacuumer(func(o *Options) { o.MinRows = 1000 })
	require.NoError(t, v.round(l.Ctx))
	v.close()
	for _, id := range ids {
		events := l.phase(id).Table("events")
		require.Equal(t, vacuum.Done, events.State, events.Reason)
	}
}

func TestAJobThatIsRetriedIsVacuumedAgain(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	v := l.vacuumer(nil)
	require.NoError(t, v.round(l.Ctx))
	require.True(t, l.phase(id).Ended())
	due, err := vacuum.New(l.DB).Due(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, due)

	l.Exec(`UPDATE lethe.jobs SET generation = generation + 1 WHERE id = $1`, id)
	due, err = vacuum.New(l.DB).Due(l.Ctx)
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.Equal(t, vacuum.Waiting, due[0].Phase.State)
	require.NoError(t, v.round(l.Ctx))
	v.close()
	phase := l.phase(id)
	require.True(t, phase.Ended())
	require.Equal(t, 2, phase.Generation)
}

// A VACUUM since the job's end makes another one needless, unless rows were deleted since.
// The deletes reach the statistics some seconds late, so the job's own count is used else.
func TestATableThatWasVacuumedMeanwhileIsSkipped(t *testing.T) {
	t.Parallel()
	l := setup(t)
	v := l.vacuumer(func(o *Options) { o.DeadShare = 0.1 })
	require.Equal(t, "it has been vacuumed since the job's end", v.reason(vacuum.Facts{Live: 1000, Vacuumed: true}, 5000, true))
	require.Empty(t, v.reason(vacuum.Facts{Live: 1000, Dead: 500, Vacuumed: true}, 5000, true))
	require.Empty(t, v.reason(vacuum.Facts{Live: 1000}, 5000, true))
	v.options.MinRows = 2
	require.Equal(t, "1 dead row is fewer than vacuum.min_rows", v.reason(vacuum.Facts{Live: 1000}, 1, true))

	l.Exec(`VACUUM events`)
	for since, want := range map[int64]bool{time.Hour.Milliseconds(): true, -time.Hour.Milliseconds(): false} {
		require.Eventually(t, func() bool { // before PostgreSQL 15 statistics are late
			facts, err := vacuum.New(l.DB).Facts(l.Ctx, []string{"events"}, since)
			require.NoError(t, err)
			return facts[0].Vacuumed == want
		}, time.Minute, 5*time.Millisecond)
	}
}

func TestOnlyTablesOfTheHomeserverAreVacuumed(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue(room)
	before := storetest.One[int64](l.Lab, `SELECT pg_stat_get_vacuum_count('pg_class'::regclass)`)
	l.end(l.Claim(id), map[string]int64{"no_such_table": 100_000, `events"; DROP TABLE events; --`: 100_000, "pg_class": 100_000}, 1)
	l.runs(l.vacuumer(nil))
	phase := l.awaits(id, ended)
	require.Len(t, phase.Tables, 3)
	for _, table := range phase.Tables {
		require.Equal(t, "the homeserver has no such table", table.Reason)
	}
	require.Equal(t, before, storetest.One[int64](l.Lab, `SELECT pg_stat_get_vacuum_count('pg_class'::regclass)`))
	l.vacuums() // the table of events is there
}

// What is in the row may be of another version, or not of Lethe at all.
func TestAPhaseThatCannotBeReadBeginsAgain(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	for _, phase := range []string{`{}`, `{"state": 1}`, `{"generation": 1, "horizon": "x", "tables": [{"name": "events"}]}`} {
		l.Exec(`UPDATE lethe.jobs SET vacuum = $2::text::jsonb WHERE id = $1`, id, phase)
		due, err := vacuum.New(l.DB).Due(l.Ctx)
		require.NoError(t, err)
		require.Equal(t, vacuum.Phase{State: vacuum.Waiting, Generation: 1, Tables: []vacuum.EmptiedTable{{Name: "events", State: vacuum.Waiting}}}, due[0].Phase, phase)
	}
}

// A phase that has begun comes to an end, even if no worker was there for a day. Jobs that
// ended before there were phases have none.
func TestAPhaseEndsAfterDays(t *testing.T) {
	t.Parallel()
	l := setup(t)
	begun, old := l.purged(true), l.Queue(room)
	l.end(l.Claim(old), map[string]int64{"events": 1000}, 1)
	l.Exec(`UPDATE lethe.jobs SET created_at = now() - interval '3 days', started_at = now() - interval '3 days', ended_at = now() - interval '2 days'`)
	l.Exec(`UPDATE lethe.jobs SET vacuum = '{"state": "waiting", "generation": 1, "tables": [{"name": "events", "state": "running"}]}' WHERE id = $1`, begun)
	v := l.vacuumer(nil)
	require.NoError(t, v.round(l.Ctx))
	v.close()
	require.True(t, l.phase(begun).Ended())
	require.Nil(t, l.phase(old))
}

// A VACUUM that someone ends again and again, or that crashes its session, is not begun for
// ever.
func TestAVacuumThatIsAlwaysCutOffIsGivenUp(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	l.runs(l.vacuumer(slow))
	ends := l.connect()
	cut := map[int]bool{}
	phase := l.awaits(id, func(p vacuum.Phase) bool {
		var pid int
		if ends.QueryRow(l.Ctx, `
			SELECT pid FROM (SELECT pid, pg_terminate_backend(pid) FROM pg_stat_progress_vacuum
				WHERE datname = current_database() AND relid = 'events'::regclass) AS cut`).Scan(&pid) == nil {
			cut[pid] = true
		}
		return p.Ended()
	})
	require.Len(t, cut, maxBegun)
	require.Equal(t, vacuum.Skipped, phase.Table("events").State)
	require.Equal(t, "its VACUUM was begun 3 times and cut off each time", phase.Table("events").Reason)
}

// Rounds that fail are seldom tried again, and do not fill the log.
func TestRoundsThatFailPause(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	var log bytes.Buffer
	v := l.vacuumer(func(o *Options) { o.URL = l.url + "&host=127.0.0.1&port=1" })
	v.log = slog.New(slog.NewTextHandler(&log, nil))
	ctx, cancel := context.WithTimeout(l.Ctx, 2*time.Second)
	defer cancel()
	v.Run(ctx)
	require.Nil(t, l.phase(id))
	failed := strings.Count(log.String(), "it will be tried again")
	require.Positive(t, failed)
	require.Less(t, failed, 10, "200 intervals have passed")
}

// The tables do not wait for the walks of a thousand rooms.
func TestWalksTogetherHaveABound(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.purged(true)
	due, err := vacuum.New(l.DB).Due(l.Ctx)
	require.NoError(t, err)
	v := l.vacuumer(nil)
	late, cancel := context.WithDeadline(l.Ctx, time.Now().Add(-time.Second))
	defer cancel()
	v.walk(late, &due[0])
	require.Equal(t, vacuum.Skipped, due[0].Phase.Walk.State)
	require.Equal(t, errWalkTime.Error(), due[0].Phase.Walk.Reason)

	stopped, stop := context.WithCancel(l.Ctx)
	stop()
	due, err = vacuum.New(l.DB).Due(l.Ctx)
	require.NoError(t, err)
	v.walk(stopped, &due[0])
	require.Nil(t, due[0].Phase.Walk, "another worker does it")
	require.Nil(t, l.phase(id))
}
