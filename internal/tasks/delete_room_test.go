package tasks

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/roomgen"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// furnish makes a room of version 10 with so many local members, in the order of
// their ids the first of whom made it, and no others. It returns their ids.
func (l *lab) furnish(id string, members int) []string {
	l.T.Helper()
	_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{
		ID: id, Server: "x", Events: 40, LocalMembers: members, RemoteMembers: -1,
	})
	require.NoError(l.T, err)
	users := l.joined(id)
	require.Len(l.T, users, members)
	return users
}

// joined are the room's local members.
func (l *lab) joined(room string) []string {
	l.T.Helper()
	return storetest.All[string](l.Lab, `
		SELECT user_id FROM local_current_membership WHERE room_id = $1 AND membership = 'join' ORDER BY user_id`, room)
}

// delete accepts a delete of the room that purges it, as changed.
func (l *lab) delete(room string, change func(*DeleteRoom)) string {
	l.T.Helper()
	request := DeleteRoom{Room: room, Requester: "@admin:x", RoomName: "N", Message: "M", Purge: true}
	if change != nil {
		change(&request)
	}
	id, err := l.client.SubmitDeleteRoom(l.Ctx, request)
	require.NoError(l.T, err)
	return id
}

// deleteEnds waits for the delete's end and returns its status, as it is served.
func (l *lab) deleteEnds(id string) (jobs.Status, shutdown.Result) {
	l.T.Helper()
	status := l.endsAs(jobs.DeleteRoom, id)
	details, err := DeleteStatusOf([]byte(status.Progress))
	require.NoError(l.T, err)
	return status, details.Shutdown
}

// checkpoint is how far the delete is.
func (l *lab) checkpoint(id string) deleteRoomCheckpoint {
	l.T.Helper()
	var at deleteRoomCheckpoint
	if checkpoint := l.Job(id).Checkpoint; checkpoint != nil {
		require.NoError(l.T, json.Unmarshal(checkpoint, &at))
	}
	return at
}

// gone fails the test unless the database has nothing of the room.
func (l *lab) gone(room string) {
	l.T.Helper()
	for _, table := range storetest.All[string](l.Lab, `
		SELECT table_name::text FROM information_schema.columns
		WHERE table_schema = 'public' AND column_name = 'room_id'
		  AND table_name NOT IN ('blocked_rooms', 'current_state_delta_stream')`) {
		require.Zero(l.T, storetest.All[int](l.Lab, `SELECT count(*) FROM `+table+` WHERE room_id = $1`, room)[0], table)
	}
}

// whole fails the test unless all that was generated of the room is there.
func (l *lab) whole(room string) {
	l.T.Helper()
	require.GreaterOrEqual(l.T, len(l.depths(room)), 40)
	require.Equal(l.T, []string{room}, storetest.All[string](l.Lab, `SELECT room_id FROM rooms WHERE room_id = $1`, room))
}

// unmovable makes the user one who cannot be removed: the user's membership is
// said to come from an event that is another one's.
func (l *lab) unmovable(room, user string) {
	l.T.Helper()
	l.Exec(`
		UPDATE local_current_membership SET event_id = (
			SELECT event_id FROM state_events WHERE room_id = $1 AND type = 'm.room.create')
		WHERE room_id = $1 AND user_id = $2`, room, user)
}

func (l *lab) blocker(room string) []string {
	l.T.Helper()
	return storetest.All[string](l.Lab, `SELECT user_id FROM blocked_rooms WHERE room_id = $1`, room)
}

func TestDeleteRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 4)
	l.furnish("!other:x", 3)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#a:x', $1, '@u:x'), ('#b:x', $1, '@u:x')`, room)
	id := l.delete(room, func(d *DeleteRoom) { d.NewRoomUser, d.Block = "@new:x", true })
	l.work(WorkerOptions{BatchEvents: 7})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Empty(t, status.Error)
	require.Equal(t, users, done.KickedUsers)
	require.Equal(t, []string{}, done.FailedToKickUsers)
	require.ElementsMatch(t, []string{"#a:x", "#b:x"}, done.LocalAliases)
	require.NotNil(t, done.NewRoomID)
	l.gone(room)
	require.Equal(t, []string{"@admin:x"}, l.blocker(room))
	require.Len(t, l.joined("!other:x"), 3)
	l.whole("!other:x")

	require.Equal(t, []string{*done.NewRoomID, *done.NewRoomID}, storetest.All[string](l.Lab, `SELECT room_id FROM room_aliases`))
	require.ElementsMatch(t, append(users, "@new:x"), l.joined(*done.NewRoomID))
	said := storetest.All[string](l.Lab, `
		SELECT json::jsonb -> 'content' ->> 'body' FROM event_json JOIN events USING (event_id)
		WHERE events.room_id = $1 AND type = 'm.room.message'`, *done.NewRoomID)
	require.Equal(t, []string{"M"}, said)
	at := l.checkpoint(id)
	require.Equal(t, phasePurging, at.Phase)
	require.GreaterOrEqual(t, at.EventsDeleted, int64(44), "the leaves, too")
	require.Zero(t, l.redis.Exists(l.Ctx, "lethe:lock:{"+room+"}:w").Val(), "the room is unlocked")

	again := l.delete(room, nil)
	status, done = l.deleteEnds(again)
	require.Equal(t, journal.Complete, status.State)
	require.Equal(t, shutdown.Result{}.WithLists(), done)
}

func TestShutdownAloneDeletesNothing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 3)
	id := l.delete(room, func(d *DeleteRoom) { d.Purge = false })
	l.work(WorkerOptions{HomeserverRuns: true})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, users, done.KickedUsers)
	require.Nil(t, done.NewRoomID)
	require.Equal(t, phaseShuttingDown, l.checkpoint(id).Phase)
	require.Empty(t, l.joined(room))
	require.Empty(t, l.blocker(room))
	require.Len(t, l.depths(room), 40+len(users))
	require.Equal(t, int64(len(users)), storetest.All[int64](l.Lab, `SELECT sum(forgotten) FROM room_memberships m
		JOIN local_current_membership USING (event_id) WHERE m.room_id = $1`, room)[0])
}

func TestUnknownRoomIsBlockedAndNoMore(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.work(WorkerOptions{})
	id := l.delete("!nobody:far", func(d *DeleteRoom) { d.Block, d.NewRoomUser = true, "@new:x" })
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, shutdown.Result{}.WithLists(), done)
	require.Equal(t, []string{"@admin:x"}, l.blocker("!nobody:far"))
	require.Zero(t, storetest.All[int](l.Lab, `SELECT count(*) FROM rooms`)[0], "no user needs another room")

	id = l.delete("!nobody:far", func(d *DeleteRoom) { d.Requester, d.Block = "@other:x", true })
	status, _ = l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State)
	require.Equal(t, []string{"@admin:x"}, l.blocker("!nobody:far"), "the first one stays")
	status, _ = l.deleteEnds(l.delete("!another:far", nil))
	require.Equal(t, journal.Complete, status.State)
	require.Empty(t, l.blocker("!another:far"))
}

func TestJoinedUserKeepsTheRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 4)
	l.unmovable(room, users[1])
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#a:x', $1, '@u:x')`, room)
	id := l.delete(room, func(d *DeleteRoom) { d.Block, d.NewRoomUser = true, "@new:x" })
	l.work(WorkerOptions{})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "400: Users are still joined to this room: "+users[1]+" could not be removed: ")
	// What was done stays, and is said.
	require.ElementsMatch(t, []string{users[0], users[2], users[3]}, done.KickedUsers)
	require.Equal(t, users[1:2], done.FailedToKickUsers)
	require.Equal(t, []string{"#a:x"}, done.LocalAliases)
	require.NotNil(t, done.NewRoomID)
	require.Equal(t, []string{"@admin:x"}, l.blocker(room))
	l.whole(room)
	require.Equal(t, users[1:2], l.joined(room))
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	again, sameDone := l.deleteEnds(id)
	require.Equal(t, status.Error, again.Error)
	require.Equal(t, done, sameDone)

	// Even then it goes if it is forced to.
	id = l.delete(room, func(d *DeleteRoom) { d.ForcePurge = true })
	status, done = l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Empty(t, done.KickedUsers)
	require.Equal(t, users[1:2], done.FailedToKickUsers)
	l.gone(room)
}

func TestRoomWithUnknownTableIsNotHalfClosed(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 3)
	l.Exec(`CREATE TABLE stars (room_id text REFERENCES rooms (room_id) ON DELETE CASCADE)`)
	l.work(WorkerOptions{})
	status, _ := l.deleteEnds(l.delete(room, func(d *DeleteRoom) { d.Block = true }))
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "stars")
	require.Equal(t, users, l.joined(room))
	require.Empty(t, l.blocker(room))
}

func TestMessageThatIsTooLarge(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.furnish(room, 2)
	l.work(WorkerOptions{})
	id := l.delete(room, func(d *DeleteRoom) { d.NewRoomUser, d.Message = "@new:x", strings.Repeat("x", 70_000) })
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Failed, status.State)
	require.True(t, strings.HasPrefix(status.Error, "413: "), status.Error)
	require.Nil(t, done.NewRoomID, "it is found before the first step")
	require.Len(t, l.joined(room), 2)
	l.whole(room)
}

func TestOneDeleteOfARoomAtATime(t *testing.T) {
	t.Parallel()
	l := setup(t)
	first := l.delete(room, nil)
	request := DeleteRoom{Room: room, Requester: "@other:x", RoomName: "N", Message: "M", Purge: true}
	_, err := l.client.SubmitDeleteRoom(l.Ctx, request)
	require.ErrorIs(t, err, journal.ErrRoomBusy)
	require.True(t, request.IsOf(l.Job(first)), "for any requester")
	for _, change := range []func(*DeleteRoom){
		func(d *DeleteRoom) { d.Room = "!other:x" },
		func(d *DeleteRoom) { d.NewRoomUser = "@new:x" },
		func(d *DeleteRoom) { d.RoomName = "" },
		func(d *DeleteRoom) { d.Message = "m" },
		func(d *DeleteRoom) { d.Block = true },
		func(d *DeleteRoom) { d.Purge = false },
		func(d *DeleteRoom) { d.ForcePurge = true },
		func(d *DeleteRoom) { d.PurgeDelay = time.Second },
	} {
		other := request
		change(&other)
		require.False(t, other.IsOf(l.Job(first)), "%+v", other)
	}
	require.False(t, request.IsOf(l.Job(l.submit(room, 1))))
	l.delete("!other:x", nil)

	run := l.claim(first)
	_, err = l.client.SubmitDeleteRoom(l.Ctx, request)
	require.ErrorIs(t, err, journal.ErrRoomBusy)
	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	request.Exclusive = true // for which a history purge is as good as a delete
	_, err = l.client.SubmitDeleteRoom(l.Ctx, request)
	require.ErrorIs(t, err, journal.ErrRoomBusy)
	request.Exclusive = false
	_, err = l.client.SubmitDeleteRoom(l.Ctx, request)
	require.NoError(t, err)
}

// An id that is too long for an index must not look like a busy room: a caller that
// waited for it would wait in vain.
func TestRoomIDThatIsTooLong(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var id strings.Builder
	for i := range 3000 { // hardly to be compressed
		fmt.Fprintf(&id, "%x", i*i*i)
	}
	_, err := l.client.SubmitDeleteRoom(l.Ctx, DeleteRoom{Room: "!" + id.String() + ":x", Requester: "@admin:x"})
	require.Error(t, err)
	require.NotErrorIs(t, err, journal.ErrRoomBusy)
}

func TestDeleteWaitsForAHistoryPurge(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.furnish(room, 3)
	purge := l.submit(room, 30)
	run := l.claim(purge)
	id := l.delete(room, nil)
	stop := l.work(WorkerOptions{})
	// The one that has the room keeps it, however often the other looks.
	require.Eventually(t, func() bool {
		task, err := l.asynq.GetTaskInfo(string(jobs.Critical), dispatch.TaskID(id, 1))
		return err == nil && task.State == asynq.TaskStateRetry
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, journal.Queued, l.Job(id).State)
	require.Len(t, l.joined(room), 3)
	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	status, _ := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	l.gone(room)
	stop()

	// Both at once: whichever comes first, both end and the room is gone.
	l.furnish("!both:x", 3)
	purge, id = l.submit("!both:x", 30), l.delete("!both:x", nil)
	l.work(WorkerOptions{BatchEvents: 2})
	status, _ = l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	l.ends(purge)
	l.gone("!both:x")
}

func TestPurgeDelay(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 3)
	id := l.delete(room, func(d *DeleteRoom) { d.PurgeDelay = 24 * time.Hour })
	stop := l.work(WorkerOptions{})
	waiting := func() bool { return l.Job(id).State == journal.Queued && l.checkpoint(id).PurgeAt > 0 }
	require.Eventually(t, waiting, time.Minute, 20*time.Millisecond)
	still := func() {
		t.Helper()
		require.Empty(t, l.joined(room))
		require.Len(t, l.depths(room), 40+len(users))
		// Sooner than a status in Redis would be too old to be believed.
		require.Eventually(t, func() bool {
			status, err := l.board.Status(l.Ctx, jobs.DeleteRoom, id)
			require.NoError(t, err)
			details, err := DeleteStatusOf([]byte(status.Progress))
			require.NoError(t, err)
			return status.State == journal.Queued && details.Phase == phaseShuttingDown && slices.Equal(users, details.Shutdown.KickedUsers)
		}, 5*time.Second, 10*time.Millisecond)
		var left time.Duration
		require.NoError(t, l.Conn.QueryRow(l.Ctx, `
			SELECT to_timestamp((checkpoint ->> 'purge_at')::bigint / 1000.0) - clock_timestamp()
			FROM lethe.jobs WHERE id = $1`, id).Scan(&left))
		require.InDelta(t, 24*time.Hour, left, float64(time.Minute))
	}
	still()
	// It waits in the queue, and occupies no worker.
	require.Eventually(t, func() bool {
		task, err := l.asynq.GetTaskInfo(string(jobs.Critical), dispatch.TaskID(id, 1))
		return err == nil && task.State == asynq.TaskStateRetry && time.Until(task.NextProcessAt) > 23*time.Hour
	}, time.Minute, 20*time.Millisecond)
	require.Equal(t, 1, l.Job(id).Attempt)

	// Another worker, and a Redis that has forgotten: it is looked at again, and
	// waits for as long as it had to.
	stop()
	at := l.checkpoint(id)
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	l.Exec(`UPDATE lethe.jobs SET task_missing_since = now() - interval '61 s' WHERE id = $1`, id)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Equal(t, 2, l.Job(id).Generation)
	stop = l.work(WorkerOptions{})
	require.Eventually(t, func() bool { return l.Job(id).Attempt == 2 && waiting() }, time.Minute, 20*time.Millisecond)
	still()
	require.Equal(t, at, l.checkpoint(id), "the wait is no batch")
	require.Zero(t, l.Job(id).Failures)
	stop()

	l.Exec(`UPDATE lethe.jobs SET checkpoint = jsonb_set(checkpoint, '{purge_at}', '1') WHERE id = $1`, id)
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	require.NoError(t, l.Journal.MarkTaskNever(l.Ctx, id, 2))
	require.NoError(t, l.reconciler().Check(l.Ctx))
	l.work(WorkerOptions{})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, users, done.KickedUsers)
	l.gone(room)
}

// A room with a user who joins during the delay is not purged.
func TestUserWhoJoinsDuringThePurgeDelay(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.furnish(room, 2)
	id := l.delete(room, func(d *DeleteRoom) { d.PurgeDelay = time.Hour })
	l.Exec(`CREATE FUNCTION come() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.current_state_events (event_id, room_id, type, state_key, membership)
		SELECT event_id, room_id, 'm.room.member', '@late:x', 'join' FROM public.events WHERE type = 'm.room.create';
		NEW.checkpoint = jsonb_set(NEW.checkpoint, '{purge_at}', '1');
		RETURN NEW;
	END $$`)
	l.Exec(`CREATE TRIGGER come BEFORE UPDATE OF checkpoint ON lethe.jobs FOR EACH ROW
		WHEN (NEW.checkpoint -> 'purge_at' IS NOT NULL AND OLD.checkpoint -> 'purge_at' IS NULL) EXECUTE FUNCTION come()`)
	// A run goes by what it has written; the next one reads it.
	stop := l.work(WorkerOptions{})
	require.Eventually(t, func() bool { return l.Job(id).State == journal.Queued && l.checkpoint(id).PurgeAt == 1 }, time.Minute, 20*time.Millisecond)
	stop()
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	require.NoError(t, l.Journal.MarkTaskNever(l.Ctx, id, 1))
	require.NoError(t, l.reconciler().Check(l.Ctx))
	l.work(WorkerOptions{})
	status, _ := l.deleteEnds(id)
	require.Equal(t, "400: Users are still joined to this room", status.Error)
	l.whole(room)
}

func TestUsersWhoComeMeanwhileAreFound(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 25)
	// The first of all comes when the first group is gone, and was passed by.
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`CREATE TABLE aside.late AS SELECT * FROM local_current_membership WHERE user_id = $1`, users[0])
	l.Exec(`GRANT ALL ON SCHEMA aside TO public; GRANT ALL ON aside.late TO public`)
	l.Exec(`DELETE FROM local_current_membership WHERE user_id = $1`, users[0])
	l.Exec(`CREATE FUNCTION come() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.local_current_membership SELECT * FROM aside.late;
		DELETE FROM aside.late;
		RETURN NEW;
	END $$`)
	l.Exec(`CREATE TRIGGER come AFTER UPDATE OF checkpoint ON lethe.jobs FOR EACH ROW
		WHEN (NEW.checkpoint ->> 'after' <> '') EXECUTE FUNCTION come()`)
	id := l.delete(room, nil)
	l.work(WorkerOptions{BatchEvents: 10})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Empty(t, done.FailedToKickUsers)
	require.Equal(t, append(slices.Clone(users[1:]), users[0]), done.KickedUsers)
	l.gone(room)
}

// A user who could not be removed at first is tried again, and then has not failed.
func TestUserWhoIsRemovedAtTheSecondTry(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 5)
	// A sequence remembers what is rolled back. The trigger has a name of Synapse's, so
	// that the job stands for it.
	l.Exec(fmt.Sprintf(`CREATE SEQUENCE tries;
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF nextval('public.tries'::regclass) = 1 THEN
			RAISE 'made to fail';
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER check_partial_state_events BEFORE INSERT ON room_memberships FOR EACH ROW
		WHEN (NEW.user_id = '%s' AND NEW.membership = 'leave') EXECUTE FUNCTION refuse()`, users[2]))
	id := l.delete(room, func(d *DeleteRoom) { d.Purge = false })
	l.work(WorkerOptions{})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, []string{users[0], users[1], users[3], users[4], users[2]}, done.KickedUsers)
	require.Empty(t, done.FailedToKickUsers)
	require.Empty(t, l.joined(room))
}

// A run may end before or after any batch: it loses what it knew, and the row has
// everything that the next run needs.
func TestShutdownGoesOnFromAnyBatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 35)
	l.unmovable(room, users[20])
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#a:x', $1, '@u:x')`, room)
	id := l.delete(room, func(d *DeleteRoom) { d.NewRoomUser, d.ForcePurge = "@new:x", true })
	run := l.claim(id)
	w := l.worker(WorkerOptions{BatchEvents: 10})
	batches := 0
	for done := false; !done; batches++ {
		require.Less(t, batches, 500, "%+v", l.checkpoint(id))
		work, err := w.newWorkFromRow(l.Ctx, run)
		require.NoError(t, err)
		before := work.progress()
		if batches%3 == 0 { // and one whose commit fails does nothing
			l.Exec(`CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				RAISE SQLSTATE '40001' USING MESSAGE = 'made to fail';
			END $$;
			CREATE TRIGGER fail BEFORE UPDATE OF checkpoint ON lethe.jobs FOR EACH ROW EXECUTE FUNCTION fail()`)
			row := l.Job(id).Checkpoint
			_, err := work.next(l.Ctx)
			l.Exec(`DROP FUNCTION fail CASCADE`)
			require.Equal(t, row, l.Job(id).Checkpoint)
			if err != nil { // and was no step that is not written
				require.True(t, postgres.Transient(err), "%v", err)
				require.Equal(t, before, work.progress(), "it knows what it has not done")
			}
		}
		done, err = work.next(l.Ctx)
		require.NoError(t, err)
	}
	at := l.checkpoint(id)
	kicked := slices.DeleteFunc(slices.Clone(users), func(user string) bool { return user == users[20] })
	require.Equal(t, kicked, at.Result.KickedUsers, "each user once")
	require.Equal(t, users[20:21], at.Result.FailedToKickUsers)
	require.Equal(t, []string{"#a:x"}, at.Result.LocalAliases)
	require.Empty(t, at.Group)
	l.gone(room)
	// One room took its place, and they are in it once.
	require.Equal(t, []string{*at.Result.NewRoomID}, storetest.All[string](l.Lab, `SELECT room_id FROM rooms`))
	require.ElementsMatch(t, append(kicked, "@new:x"), l.joined(*at.Result.NewRoomID))
	require.Equal(t, 1, storetest.All[int](l.Lab, `SELECT count(*) FROM events WHERE type = 'm.room.message'`)[0])
}

// The same with workers that are told to stop.
func TestDrainedWorkersLeaveAShutdownToOthers(t *testing.T) {
	t.Parallel()
	l := setup(t)
	users := l.furnish(room, 45)
	id := l.delete(room, nil)
	for range 3 {
		before := l.checkpoint(id).Batches
		stop := l.work(WorkerOptions{BatchEvents: 5})
		require.Eventually(t, func() bool {
			return l.Job(id).State == journal.Complete || l.checkpoint(id).Batches >= before+3
		}, time.Minute, 5*time.Millisecond)
		stop()
		require.NotEqual(t, journal.Failed, l.Job(id).State, l.Job(id).Error)
	}
	require.Greater(t, l.Job(id).Attempt, 1, "no stop met it")
	l.work(WorkerOptions{BatchEvents: 5})
	status, done := l.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, status.Error)
	require.Equal(t, users, done.KickedUsers)
	require.Empty(t, done.FailedToKickUsers)
	require.Equal(t, 1, l.Job(id).Generation)
	l.gone(room)
}

func TestDeleteSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ column, value, want string }{
		"bad parameters":  {"parameters", `{"block":1}`, "decode the job's parameters"},
		"bad checkpoint":  {"checkpoint", `{"phase":"shutting_down","group":7}`, "decode the job's checkpoint"},
		"unknown phase":   {"checkpoint", `{"phase":"soup"}`, `unknown phase "soup"`},
		"no phase":        {"checkpoint", `{"phase":""}`, `unknown phase ""`},
		"unknown stage":   {"checkpoint", `{"phase":"shutting_down","stage":"soup"}`, `unknown stage "soup"`},
		"no room to move": {"checkpoint", `{"phase":"shutting_down","stage":"message"}`, ""},
		"nor to lead to":  {"checkpoint", `{"phase":"shutting_down","stage":"aliases"}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.furnish(room, 2)
			id := l.delete(room, nil)
			l.Exec(`UPDATE lethe.jobs SET `+c.column+` = $2 WHERE id = $1`, id, c.value)
			l.work(WorkerOptions{})
			require.Eventually(t, func() bool { return l.Job(id).State == journal.Failed }, time.Minute, 20*time.Millisecond)
			require.Contains(t, l.Job(id).Error, c.want)
			l.whole(room)
			require.Len(t, l.joined(room), 2)
		})
	}
}
