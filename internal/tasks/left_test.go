package tasks

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/store/leftover"
	"lethe/internal/store/storetest"
)

// leaking makes a trigger that passes as Synapse's: each delete of a room's row leaves
// a row of its first event in event_auth, where nothing finds it by the room, and then
// runs the statement.
func (l *lab) leaking(statement string) {
	l.T.Helper()
	l.Exec(`CREATE SCHEMA aside; CREATE TABLE aside.first AS
		SELECT DISTINCT ON (room_id) room_id AS room, event_id AS event FROM events ORDER BY room_id, stream_ordering;
		CREATE FUNCTION aside.leak() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO public.event_auth (event_id, auth_id, room_id)
			SELECT event, event, room FROM aside.first WHERE room = OLD.room_id;
			` + statement + `
			RETURN OLD;
		END $$;
		GRANT ALL ON SCHEMA aside TO public; GRANT ALL ON aside.first TO public;
		CREATE TRIGGER check_event_stream_ordering AFTER DELETE ON rooms FOR EACH ROW EXECUTE FUNCTION aside.leak()`)
}

// rowsLeft is the metric of rows that jobs of the kind have left.
func (l *lab) rowsLeft(kind journal.Kind) float64 {
	return value(l.T, l.metrics.RowsLeft.WithLabelValues(string(kind)))
}

// leaked returns the only table that has rows, and how many.
func leaked(t *testing.T, report *leftover.Report) (table string, rows int64) {
	t.Helper()
	require.NotNil(t, report)
	require.Empty(t, report.Skipped)
	require.Len(t, report.Left, 1)
	return report.Left[0].Table, report.Left[0].Rows
}

// What a delete leaves is in its result, with the reason, and so are the tables that
// stay on purpose and those that were not checked.
func TestDeleteSaysWhatItHasLeft(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.furnish(room, 2)
	l.furnish("!other:x", 2)
	l.leaking("")
	l.work(WorkerOptions{BatchEvents: 7})
	whole, _ := l.deleteEnds(l.delete("!unknown:x", nil))
	id := l.delete(room, func(d *DeleteRoom) { d.Block = true })
	status, _ := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	details, err := DeleteStatusOf([]byte(status.Progress))
	require.NoError(t, err)
	table, rows := leaked(t, details.Report)
	require.Equal(t, "event_auth", table)
	require.EqualValues(t, 1, rows)
	require.NotEmpty(t, details.Left[0].Why)
	require.Equal(t, storetest.All[string](l.Lab, `SELECT event FROM aside.first WHERE room = $1`, room), details.Left[0].Keys)
	require.Equal(t, "blocked_rooms", details.Kept[0].Table)
	require.Equal(t, "the block outlives the room", details.Kept[0].Why)
	require.Contains(t, details.NotChecked, "room_tags")
	require.NotContains(t, details.NotChecked, "event_auth")
	require.EqualValues(t, 1, l.rowsLeft(jobs.DeleteRoom))

	listed, err := l.Journal.ListJobs(l.Ctx, journal.JobList{
		Kinds: []journal.Kind{jobs.DeleteRoom}, States: []journal.State{journal.Complete}, EndedWithin: time.Hour, Limit: 9,
	})
	require.NoError(t, err)
	var result leftover.Report
	require.NoError(t, json.Unmarshal(listed[len(listed)-1].Result, &result))
	require.Equal(t, *details.Report, result)

	details, err = DeleteStatusOf([]byte(whole.Progress))
	require.NoError(t, err)
	require.NotNil(t, details.Report)
	require.Equal(t, []leftover.Table{}, details.Left, "it was checked, and nothing is left")
}

// The check waits for another session's lock at most 2 s, during which the room and its
// fence are free, and the delete completes without it.
func TestCheckHoldsNoLockAndFailsNoDelete(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO rooms (room_id) VALUES ($1)`, room)
	l.Exec(`INSERT INTO room_depth (room_id, min_depth) VALUES ($1, 1)`, room)
	id := l.delete(room, func(d *DeleteRoom) { d.ForcePurge = true })
	run := l.claim(id)
	work, err := l.worker(WorkerOptions{}).newWorkFromRow(l.Ctx, run)
	require.NoError(t, err)
	for len(storetest.All[string](l.Lab, `SELECT room_id FROM rooms WHERE room_id = $1`, room)) > 0 {
		_, err := work.next(l.Ctx)
		require.NoError(t, err)
	}
	l.Exec(`BEGIN`)
	l.Exec(`LOCK TABLE blocked_rooms IN ACCESS EXCLUSIVE MODE`)
	ended := make(chan error, 1)
	go func() {
		_, err := work.next(l.Ctx)
		ended <- err
	}()
	l.RequireLockWait()
	require.Zero(t, l.redis.Exists(l.Ctx, "lethe:lock:{"+room+"}:w").Val(), "the room is unlocked")
	require.NotEmpty(t, storetest.All[string](l.Lab, `SELECT room_id FROM lethe.room_fences WHERE room_id = $1 FOR UPDATE NOWAIT`, room))
	require.Empty(t, ended)
	require.NoError(t, <-ended)
	l.Exec(`ROLLBACK`)
	require.Equal(t, &leftover.Report{Skipped: "the check took longer than 2s"}, work.progress().(deleteRoomCheckpoint).Report)
}

// A worker that dies between the check and the job's end is followed by one that checks
// again, and a run that has lost its job does not write over that.
func TestCheckIsRepeatedUntilTheJobEnds(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.furnish(room, 2)
	l.leaking("")
	id := l.delete(room, func(d *DeleteRoom) { d.ForcePurge = true })
	first := l.claim(id)
	finish := func(run journal.Run) deleteRoomCheckpoint {
		work, err := l.worker(WorkerOptions{}).newWorkFromRow(l.Ctx, run)
		require.NoError(t, err)
		for done := false; !done; {
			done, err = work.next(l.Ctx)
			require.NoError(t, err)
		}
		return work.progress().(deleteRoomCheckpoint)
	}
	old := finish(first)
	leaked(t, old.Report)
	require.Nil(t, l.checkpoint(id).Report)
	l.vanish(id)
	second := l.claim(id)
	at := finish(second)
	require.Equal(t, old.Report, at.Report)
	require.ErrorIs(t, l.Journal.CompleteJob(l.Ctx, first, old), journal.ErrSuperseded)
	require.NoError(t, l.Journal.CompleteJob(l.Ctx, second, at))
	require.Equal(t, at, l.checkpoint(id))
	require.ErrorIs(t, l.Journal.CompleteJob(l.Ctx, second, old), journal.ErrSuperseded)
}

// A sweep ends after its deletes, and checks once what all of them have left.
func TestSweepChecksOnceAtItsEnd(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, id := range []string{"!a:x", "!b:x", "!c:x"} {
		l.lodge(id, "leave", 40)
	}
	l.leaking(`IF OLD.room_id = '!c:x' THEN RAISE SQLSTATE '22000'; END IF;`)
	options := forsaking()
	l.look(options)
	l.passes(1)
	id, err := l.client.submit(l.Ctx, journal.Job{Kind: jobs.AbandonedSweep, Requester: retention.Requester}, Acceptance{},
		retention.SweepParameters{Job: retention.AbandonedJob, Tick: time.Now()}, false)
	require.NoError(t, err)
	l.work(options)
	require.Eventually(t, func() bool { return l.Job(id).State.Ended() }, time.Minute, 20*time.Millisecond)
	require.Equal(t, []string{"!a:x complete", "!b:x complete", "!c:x failed"}, l.deletes())
	swept := l.sweptSoFar(id)
	require.EqualValues(t, 3, swept.Enqueued)
	require.Equal(t, 2, swept.RoomsChecked)
	table, rows := leaked(t, swept.Report)
	require.Equal(t, "event_auth", table)
	require.EqualValues(t, 2, rows)
	require.Contains(t, swept.NotChecked, "room_tags")
	for _, job := range storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs WHERE kind = 'delete_room'`) {
		require.Nil(t, l.checkpoint(job).Report)
	}
	require.EqualValues(t, 2, l.rowsLeft(jobs.AbandonedSweep))
	require.Zero(t, l.rowsLeft(jobs.DeleteRoom))
}

// A sweep waits for its own deletes, but not for one that takes longer than an hour.
func TestSweepWaitsForItsDeletes(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.lodge("!a:x", "leave", 40)
	l.look(forsaking())
	l.passes(1)
	require.EqualValues(t, 1, l.look(forsaking()).Enqueued)
	sweep := storetest.One[string](l.Lab, `SELECT parameters ->> 'sweep' FROM lethe.jobs WHERE kind = 'delete_room'`)
	open := func(sweep string) bool {
		open, err := journal.NewDeletes(l.DB).OpenOf(l.Ctx, sweep, time.Hour)
		require.NoError(t, err)
		return open
	}
	require.True(t, open(sweep))
	require.False(t, open("OfAnotherSweepAa"))
	for _, change := range []string{
		`created_at = now() - interval '61 minutes'`, `state = 'held'`, `state = 'failed', ended_at = now(), error = 'why'`,
	} {
		l.Exec(`UPDATE lethe.jobs SET ` + change + ` WHERE kind = 'delete_room'`)
		require.False(t, open(sweep), change)
		l.Exec(`UPDATE lethe.jobs SET created_at = now(), state = 'queued', ended_at = NULL, error = NULL WHERE kind = 'delete_room'`)
		require.True(t, open(sweep))
	}
}
