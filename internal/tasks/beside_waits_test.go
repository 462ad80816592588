package tasks

import (
	"encoding/json"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
	"lethe/internal/synapse"
)

// While something about the homeserver is not as it must be, a job waits and says for
// what. It deletes nothing meanwhile, and goes on when the cause has ended.
func TestJobsWaitForTheHomeserver(t *testing.T) {
	t.Parallel()
	purge := func(l *besideLab) string { return l.submit(room, 25) }
	remove := func(l *besideLab) string { return l.delete(room, nil) }
	for what, c := range map[string]struct {
		job    func(l *besideLab) string
		begin  func(l *besideLab) (s *synapse.Synapse, end func())
		reason string
	}{
		"said not to run, and seen": {purge, func(l *besideLab) (*synapse.Synapse, func()) {
			return l.beside(synapse.Options{Mode: synapse.Stopped}), besidetest.Sessions(l.T, l.URL)
		}, "waiting: synapse_beside says that no Synapse runs, but the role lethe has 2 sessions that are not Lethe's"},

		"it does not answer": {purge, func(l *besideLab) (*synapse.Synapse, func()) {
			besidetest.Sessions(l.T, l.URL)
			return l.byStream(time.Nanosecond), func() { l.listen(false) }
		}, `waiting: Synapse runs, but no process of it answers on the channel "x"`},

		"no way to tell it": {purge, func(l *besideLab) (*synapse.Synapse, func()) {
			end := besidetest.Sessions(l.T, l.URL)
			var role string
			require.NoError(l.T, l.DB.QueryRow(l.Ctx, `SELECT current_user`).Scan(&role))
			l.Exec(`REVOKE INSERT (params) ON scheduled_tasks FROM ` + role)
			return l.beside(synapse.Options{}), end
		}, "there is no way to tell it of purges: set homeserver.redis_url"},

		"its own purge runs": {purge, func(l *besideLab) (*synapse.Synapse, func()) {
			l.task("its", "purge_history", "active", 0)
			return l.byStream(time.Nanosecond), func() { l.Exec(`UPDATE scheduled_tasks SET status = 'complete'`) }
		}, "waiting: Synapse itself has a task for the room: purge_history its"},

		"its own delete is due": {remove, func(l *besideLab) (*synapse.Synapse, func()) {
			l.task("its", "shutdown_and_purge_room", "scheduled", -time.Second)
			return l.byStream(time.Nanosecond), func() { l.Exec(`UPDATE scheduled_tasks SET status = 'failed'`) }
		}, "waiting: Synapse itself has a task for the room: shutdown_and_purge_room its"},

		"only it can write events": {remove, func(l *besideLab) (*synapse.Synapse, func()) {
			l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ($1, '@a:x', '$a2', 'join')`, room)
			l.listen(false)
			return l.byStream(time.Nanosecond), besidetest.Sessions(l.T, l.URL)
		}, "only it can make users leave the room: set homeserver.url and homeserver.as_token"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := setupBeside(t)
			l.Chain(room, "a", 30, 0)
			s, end := c.begin(l)
			before := l.Dump("public")
			id := c.job(l)
			l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
			l.requireWaits(id, c.reason)
			require.Equal(t, before, l.Dump("public"), "nothing was changed")
			require.Empty(t, l.blocker(room))
			if what == "only it can write events" {
				return // it was heard, and so counts as present for two minutes
			}
			end()
			l.requireComplete(id)
			require.Empty(t, l.Job(id).WaitsFor)
		})
	}
}

// task adds a task of the homeserver for the room.
func (l *besideLab) task(id, action, status string, after time.Duration) {
	l.T.Helper()
	l.Exec(`INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id)
		VALUES ($1, $2, $3, extract(epoch FROM clock_timestamp()) * 1000 + $4::bigint, $5)`, id, action, status, after.Milliseconds(), room)
}

// A task whose time is to come, of another room, or that has ended, holds nothing up.
// Nor do Lethe's own sessions, tools or a single session.
func TestWhatHoldsNoJobUp(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	l.task("later", "purge_history", "scheduled", time.Hour)
	l.task("done", "purge_history", "complete", 0)
	l.Exec(`INSERT INTO scheduled_tasks SELECT 'others', action, 'active', timestamp, '!other:x' FROM scheduled_tasks LIMIT 1`)
	besidetest.NewLocks(t, l.URL) // one session
	l.work(WorkerOptions{Synapse: l.beside(synapse.Options{Mode: synapse.Stopped})})
	l.requireComplete(l.submit(room, 25))
}

// requested waits for the task that Lethe requests, and returns its id and parameters.
func (l *besideLab) requested(action string) (id, parameters string) {
	l.T.Helper()
	l.soon(func() bool {
		return storetest.One[int](l.Lab, `SELECT count(*) FROM scheduled_tasks WHERE action = $1 AND status = 'scheduled'`, action) == 1
	})
	require.NoError(l.T, l.Conn.QueryRow(l.Ctx, `SELECT id, params FROM scheduled_tasks WHERE resource_id = $1`, room).Scan(&id, &parameters))
	return id, parameters
}

// Without Redis a purge leaves its last level to the homeserver, whose own purge clears
// its caches.
func TestPurgeIsConfirmedByATask(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	besidetest.Sessions(t, l.URL)
	s := l.beside(synapse.Options{})
	l.sweep(s)
	id := l.submit(room, 25)
	l.work(WorkerOptions{BatchEvents: 10, MappingDelay: quickly, Synapse: s})
	task, parameters := l.requested("purge_history")
	require.JSONEq(t, `{"token":"t25-0","delete_local_events":false}`, parameters)
	require.Equal(t, []int64{24, 25, 26, 27, 28, 29, 30}, l.depths(room))
	l.requireWaits(id, "waiting: Synapse has to run its task "+task+", which clears its caches")
	l.Exec(`UPDATE scheduled_tasks SET status = 'active'`) // which is its own
	seen := l.Job(id).Attempt
	l.soon(func() bool { return l.Job(id).Attempt > seen })
	l.requireWaits(id, "waiting: Synapse has to run its task "+task)
	require.Equal(t, 30, l.mapped(), "however long that takes")
	require.Equal(t, l.delayed(), storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.delayed_mappings WHERE due_at = 'infinity'`))

	for _, table := range []string{"event_edges", "event_json", "event_search", "event_to_state_groups", "events"} {
		l.Exec(`DELETE FROM ` + table + ` WHERE event_id = '$a24'`)
	}
	l.Exec(`UPDATE scheduled_tasks SET status = 'complete'`)
	l.requireComplete(id)
	require.Equal(t, 6, l.mapped())
	require.Zero(t, l.delayed())
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*) FROM scheduled_tasks`), "one is enough")
}

func TestPurgeWhoseTaskFails(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	besidetest.Sessions(t, l.URL)
	s := l.beside(synapse.Options{})
	id := l.submit(room, 25)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
	l.requested("purge_history")
	l.Exec(`UPDATE scheduled_tasks SET status = 'failed', error = 'no such luck'`)
	status := l.ends(id)
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "the homeserver's task has failed: failed no such luck")
}

// If none is present, none has anything in its caches.
func TestPurgeWithoutRedisAndWithoutAHomeserver(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: l.beside(synapse.Options{})})
	l.requireComplete(l.submit(room, 25))
	require.Equal(t, []int64{25, 26, 27, 28, 29, 30}, l.depths(room))
	require.Equal(t, 6, l.mapped())
	require.Empty(t, storetest.All[string](l.Lab, `SELECT id FROM scheduled_tasks`))
}

// The homeserver is never asked to purge what the room's policy keeps by now, even if an
// earlier run has begun to.
func TestPolicyThatKeepsTheLastLevel(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{phaseEvents, phaseMappings} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			l := setupBeside(t)
			l.Chain(room, "a", 30, 0)
			besidetest.Sessions(t, l.URL)
			job := storetest.NewJob(jobs.NewID(), room)
			job.Parameters = json.RawMessage(`{"token":"t25-0","delete_local_events":false,"retention_job":"all","expired_before":1}`)
			require.NoError(t, l.Journal.InsertJob(l.Ctx, job, false))
			run := l.claim(job.ID)
			l.Exec(`UPDATE lethe.jobs SET checkpoint = jsonb_build_object('phase', $1::text, 'batches', 2, 'size', 10)`, phase)
			l.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($1, '{$x}', false, 'infinity')`, room)
			w := l.worker(WorkerOptions{
				MappingDelay: time.Hour, Synapse: l.beside(synapse.Options{}),
				Retention: retention.Config{Enabled: true, Jobs: []retention.Job{{Name: "all"}}}, // by which rooms without a policy keep all
			})
			purge, err := w.newPurgeHistory(l.Ctx, l.Job(job.ID), run)
			require.NoError(t, err)
			for done := false; !done; {
				done, err = purge.next(l.Ctx)
				require.NoError(t, err)
			}
			require.Equal(t, 1, l.delayed(), "nothing has made the homeserver forget the events")
			require.Empty(t, storetest.All[string](l.Lab, `SELECT id FROM scheduled_tasks`))
			require.Len(t, l.depths(room), 30)
		})
	}
}

func TestDeleteIsConfirmedByATask(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.furnish(room, 2)
	besidetest.Sessions(t, l.URL)
	s := l.beside(synapse.Options{})
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s, HomeserverRuns: true})
	task, parameters := l.requested("purge_room")
	require.JSONEq(t, `{"force":false}`, parameters)
	require.NotContains(t, l.depths(room), int64(20), "its history is purged, and Synapse deletes the rest")
	l.requireWaits(id, "waiting: Synapse has to run its task "+task)
	l.Exec(`SET session_replication_role = replica; DELETE FROM rooms; SET session_replication_role = origin;
		UPDATE scheduled_tasks SET status = 'complete'`)
	l.requireComplete(id)
	l.gone(room)
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*) FROM scheduled_tasks`))
}

// The part of a delete that Lethe does for Synapse is limited as any other.
func TestADeleteThatATaskEndsKeepsToTheRate(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.furnish(room, 2)
	besidetest.Sessions(t, l.URL)
	l.Exec(`INSERT INTO lethe.fleet (kind, rows_per_second, who) VALUES ($1, 8, '@op:x')`, jobs.DeleteRoom)
	l.delete(room, nil)
	l.work(WorkerOptions{BatchEvents: 4, MappingDelay: quickly, Synapse: l.beside(synapse.Options{}), HomeserverRuns: true})
	l.requested("purge_room")
	var paused dto.Metric
	require.NoError(t, l.metrics.RatePauseSeconds.Write(&paused))
	require.Positive(t, paused.GetCounter().GetValue())
}

func TestDeleteWhoseTaskFails(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.furnish(room, 2)
	besidetest.Sessions(t, l.URL)
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: l.beside(synapse.Options{}), HomeserverRuns: true})
	l.requested("purge_room")
	l.Exec(`UPDATE scheduled_tasks SET status = 'failed', error = '400: no such luck'`)
	status, _ := l.deleteEnds(id)
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "400: no such luck")
}

// A user who has joined after the shutdown, while the delete waited for its lock, is removed
// too.
func TestUserWhoJoinsAfterTheShutdown(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	users := l.furnish(room, 3)
	s := l.byStream(time.Nanosecond)
	l.listen(false)
	// The user is one of whom the shutdown knows nothing yet. When all others have left,
	// the room has no current state any more, and whoever joins brings it back.
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`CREATE TABLE aside.current_state_events AS SELECT * FROM current_state_events
		WHERE room_id = $1 AND (type <> 'm.room.member' OR state_key = $2)`, room, users[0])
	l.Exec(`CREATE TABLE aside.local_current_membership AS SELECT * FROM local_current_membership WHERE room_id = $1 AND user_id = $2`, room, users[0])
	for _, table := range []string{"current_state_events", "local_current_membership"} {
		l.Exec(`DELETE FROM ` + table + ` WHERE event_id IN (SELECT event_id FROM aside.local_current_membership)`)
	}
	joining := besidetest.NewLocks(t, l.URL)
	token, err := joining.Read("new_event_during_purge_lock", room)
	require.NoError(t, err)
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s, HomeserverRuns: true})
	l.soon(func() bool { return count(l.recorded(), takeLock) > 0 })
	require.Empty(t, l.joined(room))
	for _, table := range []string{"current_state_events", "local_current_membership"} {
		l.Exec(`INSERT INTO ` + table + ` SELECT * FROM aside.` + table)
	}
	require.Equal(t, users[:1], l.joined(room))
	require.NoError(t, joining.Release(token))
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, 1, l.checkpoint(id).Returns)
	require.ElementsMatch(t, users, done.KickedUsers)
	l.gone(room)
}

// A user who comes back again and again does not keep the job for ever.
func TestUserWhoAlwaysJoinsAgain(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	users := l.furnish(room, 3)
	l.unmovable(room, users[1])
	id := l.delete(room, func(d *DeleteRoom) { d.NewRoomUser = "@new:x" })
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: l.byStream(time.Nanosecond), HomeserverRuns: true})
	status, _ := l.deleteEnds(id)
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "400: Users are still joined to this room")
	require.Equal(t, maxReturns, l.checkpoint(id).Returns)
	l.whole(room)
}

// receipt adds what a client sends that does not know yet that the room is gone.
func (l *besideLab) receipt(user string) {
	l.T.Helper()
	l.Exec(`INSERT INTO receipts_linearized (stream_id, room_id, receipt_type, user_id, event_id, data) VALUES (1, $1, 'm.read', $2, '$a1', '{}')`, room, user)
}

func (l *besideLab) receipts() int {
	return storetest.One[int](l.Lab, `SELECT count(*) FROM receipts_linearized WHERE room_id = $1`, room)
}

// Receipts that arrive after a delete go too.
func TestLastLookAfterADelete(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: 2 * time.Second, Synapse: l.byStream(time.Nanosecond)})
	l.requireWaits(id, "waiting: the room is gone, and its clients may still send receipts for some seconds")
	l.receipt("@u:x")
	require.Equal(t, 1, l.receipts())
	l.requireComplete(id)
	l.gone(room)
	require.Zero(t, l.receipts())
}

// back lets a user of ours join the room anew, on another server.
func (l *besideLab) back() {
	l.T.Helper()
	l.Exec(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, room)
	l.Exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
		VALUES ('$back', $1, 'm.room.message', 99, 99, 9999, true, false, '@zoe:far')`, room)
	l.Exec(`INSERT INTO event_forward_extremities VALUES ('$back', $1)`, room)
}

// Nothing is deleted of a room that was joined again on another server.
func TestRoomThatIsJoinedAgain(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: 2 * time.Second, Synapse: l.byStream(time.Nanosecond)})
	l.requireWaits(id, "the room is gone")
	l.back()
	l.receipt("@u:x")
	before := l.rows(room)
	l.requireComplete(id)
	require.Equal(t, before, l.rows(room))
}

// The same holds if it is joined while the last look waits for its locks.
func TestRoomThatIsJoinedDuringTheLook(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: 2 * time.Second, Synapse: l.byStream(time.Nanosecond)})
	l.requireWaits(id, "the room is gone")
	l.soon(func() bool { return storetest.One[int](l.Lab, `SELECT count(*) FROM worker_read_write_locks`) == 0 })
	l.listen(false)
	joining := besidetest.NewLocks(t, l.URL)
	token, err := joining.Read("new_event_during_purge_lock", room)
	require.NoError(t, err)
	l.receipt("@u:x")
	l.recorder.Done()
	l.soon(func() bool { return len(besidetest.Only(l.recorder.Done(), takeLock)) > 0 }, "the look is under way")
	l.back()
	before := l.rows(room)
	require.NoError(t, joining.Release(token))
	l.requireComplete(id)
	require.Equal(t, before, l.rows(room))
	require.Equal(t, 1, l.receipts())
}

// A shutdown alone needs no lock, and tells nothing.
func TestShutdownAloneBesideAHomeserver(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	users := l.furnish(room, 2)
	s := l.byStream(time.Nanosecond)
	l.recorder.Done()
	id := l.delete(room, func(d *DeleteRoom) { d.Purge = false })
	l.work(WorkerOptions{Synapse: s})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, users, done.KickedUsers)
	require.NotContains(t, l.recorded(), takeLock)
}
