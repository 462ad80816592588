package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

func TestPauseOfEachScope(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, scope := range []string{control.ScopeJob, control.ScopeRoom, control.ScopeKind, control.ScopeAll} {
		queued, other := l.Queue("!queued:x"), l.Queue("!other:x")
		l.Exec(`UPDATE lethe.jobs SET kind = 'delete_room' WHERE id = $1`, other)
		work := l.Work("!running:x")
		l.Exec(`UPDATE lethe.jobs SET room_id = '!queued:x', created_at = created_at - interval '1 hour' WHERE id = $1`, work.Run.JobID)
		value := map[string]string{
			control.ScopeJob: queued, control.ScopeRoom: "!queued:x", control.ScopeKind: "purge_history", control.ScopeAll: "",
		}[scope]
		set, err := l.control.SetPause(l.Ctx, control.Pause{Scope: scope, Value: value, Who: "@op:x", Reason: "backup", Until: soon()})
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), set.Set, time.Minute)
		require.Equal(t, journal.Paused, l.Job(queued).State, scope)
		require.Regexp(t, `^pause of .*, by @op:x: backup$`, l.Job(queued).WaitsFor)
		require.Equal(t, map[bool]journal.State{true: journal.Paused, false: journal.Queued}[scope == control.ScopeAll], l.Job(other).State, scope)

		require.Equal(t, journal.Running, l.Job(work.Run.JobID).State, "it has no next batch yet")
		err = l.InBatch(work, func(*journal.Batch) (any, error) { return 1, nil })
		if scope == control.ScopeJob {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, journal.ErrPaused, scope)
			require.ErrorContains(t, err, "by @op:x: backup")
			require.NoError(t, l.pauses.PauseRun(l.Ctx, work.Run))
		}
		late := l.Queue("!queued:x") // accepted during the pause
		_, err = l.Journal.ClaimJob(l.Ctx, late, 1, jobs.HeartbeatStale, 0)
		if scope != control.ScopeJob {
			require.ErrorIs(t, err, journal.ErrPaused, scope)
			paused, err := l.pauses.PauseQueuedJob(l.Ctx, late, 1)
			require.NoError(t, err)
			require.True(t, paused)
			refused := l.do(control.Request{Verb: control.VerbResume}, late)
			require.Contains(t, refused.Refusal, "pause of", "another pause covers it")
		}
		lifted, err := l.control.LiftPause(l.Ctx, scope, value, "@op:x")
		require.NoError(t, err)
		require.Equal(t, set, lifted)
		_, err = l.control.LiftPause(l.Ctx, scope, value, "@op:x")
		require.ErrorIs(t, err, postgres.ErrNotFound)
		for _, id := range []string{queued, late} {
			require.Equal(t, journal.Queued, l.Job(id).State, scope)
			require.Empty(t, l.Job(id).WaitsFor)
		}
		l.Exec(`DELETE FROM lethe.jobs`)
	}
}

func TestPauseEndsByItself(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue(room)
	require.True(t, l.do(control.Request{Verb: control.VerbPause, Until: soon()}, id).Done)
	require.Equal(t, journal.Paused, l.Job(id).State)
	resumed, err := l.pauses.Resume(l.Ctx, 9)
	require.NoError(t, err)
	require.Empty(t, resumed)
	l.Exec(`UPDATE lethe.pauses SET until = clock_timestamp()`)
	pauses, err := l.control.Pauses(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, pauses)
	resumed, err = l.pauses.Resume(l.Ctx, 9)
	require.NoError(t, err)
	require.Len(t, resumed, 1)
	require.Equal(t, 2, resumed[0].Generation)
	require.True(t, resumed[0].TaskMissing)
	require.Equal(t, []string{"queued", "pause", "paused", "queued"}, names(l.log(id)))
}

func TestResumeSaysWhichOtherPauseCoversAJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue(room)
	require.True(t, l.do(control.Request{Verb: control.VerbPause}, id).Done)
	_, err := l.control.SetPause(l.Ctx, control.Pause{Scope: control.ScopeAll, Who: "@boss:x", Reason: "move"})
	require.NoError(t, err)
	outcome := l.do(control.Request{Verb: control.VerbResume}, id)
	require.True(t, outcome.Done)
	require.Equal(t, journal.Paused, outcome.Job.State)
	require.Equal(t, "pause of all jobs, by @boss:x: move", outcome.Job.WaitsFor)
	outcome = l.do(control.Request{Verb: control.VerbResume}, id)
	require.False(t, outcome.Done)
	require.Contains(t, outcome.Refusal, "pause of all jobs, by @boss:x: move")
}

// A job that is cancelled takes its pause with it, and one that is held is resumed by the
// end of its hold.
func TestWhatEndsAPause(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue(room)
	require.True(t, l.do(control.Request{Verb: control.VerbPause}, id).Done)
	require.True(t, l.do(control.Request{Verb: control.VerbCancel}, id).Done)
	pauses, err := l.control.Pauses(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, pauses)
	require.True(t, l.do(control.Request{Verb: control.VerbRetry}, id).Done)
	_, err = l.Journal.ClaimJob(l.Ctx, id, l.Job(id).Generation, jobs.HeartbeatStale, 0)
	require.NoError(t, err)
	require.Contains(t, l.do(control.Request{Verb: control.VerbResume}, l.in(journal.Held, room)).Refusal, "a hold, which must be lifted")
}

func TestPausesWithoutMeaning(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, pause := range []control.Pause{
		{}, {Scope: "soup", Value: "x"}, {Scope: control.ScopeRoom}, {Scope: control.ScopeAll, Value: "x"}, {Scope: control.ScopeJob, Value: "\x00"},
	} {
		_, err := l.control.SetPause(l.Ctx, pause)
		require.ErrorIs(t, err, control.ErrScope)
		_, err = l.control.LiftPause(l.Ctx, pause.Scope, pause.Value, "@op:x")
		require.ErrorIs(t, err, control.ErrScope)
	}
	_, err := l.control.SetPause(l.Ctx, control.Pause{Scope: control.ScopeAll, Until: time.Unix(1, 0)})
	require.ErrorIs(t, err, control.ErrUntil)
	set, err := l.control.SetPause(l.Ctx, control.Pause{Scope: control.ScopeAll, Who: "a\x00b", Reason: "\xff"})
	require.NoError(t, err)
	require.Equal(t, "a\uFFFDb", set.Who)
	again, err := l.control.SetPause(l.Ctx, control.Pause{Scope: control.ScopeAll, Who: "c", Until: soon()})
	require.NoError(t, err)
	require.Equal(t, "c", again.Who)
	pauses, err := l.control.Pauses(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, []control.Pause{again}, pauses, "one of each scope and value")
}

func TestJobsAtATime(t *testing.T) {
	t.Parallel()
	l := setup(t)
	first, second := l.Queue("!a:x"), l.Queue("!b:x")
	l.Claim(first)
	_, err := l.control.SetLimit(l.Ctx, control.Limit{Kind: jobs.PurgeHistory, Jobs: new(1), Who: "@op:x"})
	require.NoError(t, err)
	_, err = l.Journal.ClaimJob(l.Ctx, second, 1, jobs.HeartbeatStale, 0)
	require.ErrorIs(t, err, journal.ErrKindFull)
	job, err := l.control.Job(l.Ctx, second)
	require.NoError(t, err)
	require.Equal(t, "limit: at a time the fleet runs 1 of the kind purge_history", job.WaitsFor)
	l.Age(first, 2*jobs.HeartbeatStale)
	l.Claim(second)

	// Many claims at once: the limit is never passed.
	_, err = l.control.SetLimit(l.Ctx, control.Limit{Kind: jobs.PurgeHistory, Jobs: new(3)})
	require.NoError(t, err)
	claimed := make(chan error)
	for i := range 20 {
		id := l.Queue("!" + string(rune('c'+i)) + ":x")
		go func() {
			_, err := l.Journal.ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 0)
			claimed <- err
		}()
	}
	won := 1
	for range 20 {
		err := <-claimed
		if err == nil {
			won++
		} else {
			require.ErrorIs(t, err, journal.ErrKindFull)
		}
	}
	require.Equal(t, 3, won)
	require.Equal(t, 3, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs WHERE state = 'running' AND heartbeat_at > now() - interval '5 seconds'`))
}

// A claim waits for one of another room that has begun, and counts it.
func TestClaimsOfAKindWithALimitWaitForEachOther(t *testing.T) {
	t.Parallel()
	l := setup(t)
	first, second := l.Queue("!a:x"), l.Queue("!b:x")
	_, err := l.control.SetLimit(l.Ctx, control.Limit{Kind: jobs.PurgeHistory, Jobs: new(1)})
	require.NoError(t, err)
	slow, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	// The first claim is about to write its row, and has taken the lock of the kind.
	_, err = slow.Exec(l.Ctx, `SELECT pg_advisory_xact_lock(hashtextextended('lethe.jobs of the kind purge_history', 0))`)
	require.NoError(t, err)
	claimed := make(chan error, 1)
	go func() {
		_, err := l.Journal.ClaimJob(l.Ctx, second, 1, jobs.HeartbeatStale, 0)
		claimed <- err
	}()
	l.RequireLockWait()
	_, err = slow.Exec(l.Ctx, `UPDATE lethe.jobs SET state = 'running', heartbeat_at = clock_timestamp() WHERE id = $1`, first)
	require.NoError(t, err)
	require.NoError(t, slow.Commit(l.Ctx))
	require.ErrorIs(t, <-claimed, journal.ErrKindFull)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, limit := range []control.Limit{
		{},
		{Kind: "\x00", Jobs: new(1)},
		{Kind: jobs.DeleteRoom, Jobs: new(0)},
		{Kind: jobs.DeleteRoom, RowsPerSecond: new(-1)},
		{Kind: jobs.DeleteRoom, Jobs: new(1 << 40)},
	} {
		_, err := l.control.SetLimit(l.Ctx, limit)
		require.ErrorIs(t, err, control.ErrLimit)
	}
	for _, want := range []control.Limit{
		{Kind: jobs.DeleteRoom, RowsPerSecond: new(0), Who: "@op:x"}, {Kind: jobs.DeleteRoom, RowsPerSecond: new(7), Jobs: new(2), Who: "@op:x"},
	} {
		set, err := l.control.SetLimit(l.Ctx, want)
		require.NoError(t, err)
		want.Set = set.Set
		limits, err := l.control.Limits(l.Ctx)
		require.NoError(t, err)
		require.Equal(t, []control.Limit{want}, limits)
	}
	_, err := l.control.SetLimit(l.Ctx, control.Limit{Kind: jobs.DeleteRoom})
	require.NoError(t, err)
	limits, err := l.control.Limits(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, limits)
}

// TestPauseThatEndsAtOnce checks that a pause may end before the job's row says that it is
// paused.
func TestPauseThatEndsAtOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`
		CREATE FUNCTION aside.end_at_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			NEW.until := clock_timestamp();
			RETURN NEW;
		END $$`)
	l.Exec(`GRANT USAGE ON SCHEMA aside TO PUBLIC`)
	l.Exec(`CREATE TRIGGER end_at_once BEFORE INSERT ON lethe.pauses FOR EACH ROW EXECUTE FUNCTION aside.end_at_once()`)
	id := l.Queue(room)
	paused := l.do(control.Request{Verb: control.VerbPause, Until: soon()}, id)
	require.True(t, paused.Done, paused.Refusal)
	require.Equal(t, "pause that has just ended", paused.Job.WaitsFor)
	resumed, err := l.pauses.Resume(l.Ctx, 10)
	require.NoError(t, err)
	require.Len(t, resumed, 1, "by the reconciler")
	require.Equal(t, journal.Queued, l.Job(id).State)
}

// TestPauseOfAJobEndsWithTheJob checks that a job which ends by itself leaves no pause.
func TestPauseOfAJobEndsWithTheJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.in(journal.Running, room)
	pause := control.Pause{Scope: control.ScopeJob, Value: id, Who: "@op:x", Reason: "r"}
	_, err := l.control.SetPause(l.Ctx, pause)
	require.NoError(t, err)
	l.Exec(`UPDATE lethe.jobs SET state = 'failed', error = 'why', heartbeat_at = NULL, ended_at = now(), failures = 5 WHERE id = $1`, id)
	pauses, err := l.control.Pauses(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, pauses)
	_, err = l.control.LiftPause(l.Ctx, control.ScopeJob, id, "@op:x")
	require.ErrorIs(t, err, postgres.ErrNotFound)

	retried := l.do(control.Request{Verb: control.VerbRetry}, id)
	require.True(t, retried.Done, retried.Refusal)
	require.Zero(t, retried.Job.Failures, "it has all of its attempts again")
	paused, err := l.pauses.PauseQueued(l.Ctx, 10)
	require.NoError(t, err)
	require.Empty(t, paused, "a retry lets the job go on")

	_, err = l.control.SetPause(l.Ctx, pause)
	require.NoError(t, err)
	l.Exec(`DELETE FROM lethe.jobs WHERE id = $1`, id)
	pauses, err = l.control.Pauses(l.Ctx)
	require.NoError(t, err)
	require.Empty(t, pauses, "of a job that was pruned")
	_, err = l.control.SetPause(l.Ctx, control.Pause{Scope: control.ScopeRoom, Value: room, Who: "@op:x", Reason: "r"})
	require.NoError(t, err)
	require.Equal(t, []string{"room"}, storetest.All[string](l.Lab, `SELECT scope FROM lethe.pauses`))
}
