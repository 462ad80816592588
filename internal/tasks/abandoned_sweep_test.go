package tasks

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// lodge makes a room of which local users are or were members: what each is, and
// for how many days.
func (l *lab) lodge(room string, members ...any) {
	l.T.Helper()
	l.Exec(`INSERT INTO rooms (room_id, creator, room_version) VALUES ($1, '@zoe:hash.org', '10')`, room)
	for i := 0; i < len(members); i += 2 {
		l.enter(room, fmt.Sprintf("@u%d:x", i), members[i].(string), members[i+1].(int))
	}
}

// enter makes the user what it says, since so many days ago.
func (l *lab) enter(room, user, membership string, days int) {
	l.T.Helper()
	id := fmt.Sprintf("$%s-%d%s%s", membership, days, user, room)
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender, received_ts, origin_server_ts)
		SELECT $1, $2, 'm.room.member', 1, 1, coalesce(max(stream_ordering), 0) + 1, true, false, $3,
		       extract(epoch FROM now())::numeric * 1000 - $4::bigint, 0
		FROM events`, id, room, user, int64(days)*day)
	l.Exec(`
		INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, room_id) DO UPDATE SET event_id = excluded.event_id, membership = excluded.membership`,
		room, user, id, membership)
}

// forsaking are rules by which rooms are abandoned after 30 days, and cool off for a
// day.
func forsaking() WorkerOptions {
	return WorkerOptions{SweepRooms: 2, Retention: retention.Config{Abandoned: retention.Abandoned{
		Enabled: true, After: 30 * day, CoolOff: day, MaxPerRun: 100,
	}}}
}

// look sweeps for abandoned rooms once, and leaves the deletes that it makes queued.
func (l *lab) look(options WorkerOptions) sweepResult {
	l.T.Helper()
	id, err := l.client.submit(l.Ctx, journal.Job{Kind: jobs.AbandonedSweep, Requester: retention.Requester}, Acceptance{},
		retention.SweepParameters{Job: retention.AbandonedJob, Tick: time.Now()}, false)
	require.NoError(l.T, err)
	run := l.claim(id)
	sweep, err := l.worker(options).newWorkFromRow(l.Ctx, run)
	require.NoError(l.T, err)
	for done := false; !done; {
		done, err = sweep.next(l.Ctx)
		var yield jobs.YieldError
		if errors.As(err, &yield) && yield.Reason == jobs.YieldDeletes {
			break
		}
		require.NoError(l.T, err)
	}
	require.NoError(l.T, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	return l.sweptSoFar(id)
}

// passes makes what was seen older by a number of days.
func (l *lab) passes(days int) {
	l.T.Helper()
	l.Exec(`UPDATE lethe.abandoned_rooms SET seen_at = seen_at - $1::interval`, time.Duration(days)*24*time.Hour)
}

// deletes are the rooms that have had a delete of a sweep, and its state.
func (l *lab) deletes() []string {
	l.T.Helper()
	return storetest.All[string](l.Lab, `
		SELECT room_id || ' ' || state FROM lethe.jobs
		WHERE kind = 'delete_room' AND requester = 'retention' AND queue = 'low' ORDER BY room_id, created_at`)
}

// deleted waits until all deletes have ended.
func (l *lab) deleted() {
	l.T.Helper()
	require.Eventually(l.T, func() bool {
		open, err := l.Journal.OpenLowJobs(l.Ctx)
		return err == nil && open == 0
	}, time.Minute, 20*time.Millisecond)
}

func TestAbandonedRoomsAreDeletedByTheSecondSweep(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.lodge("!gone:x", "leave", 40, "ban", 31)
	for room, members := range map[string][]any{
		"!recent:x": {"leave", 40, "leave", 29}, "!joined:x": {"join", 90, "leave", 90}, "!invited:x": {"leave", 90, "invite", 90},
		"!knocked:x": {"knock", 90}, "!never:x": nil, "!undated:x": {"leave", 90, "leave", 80},
		"!id:x": {"leave", 90}, "!alias:x": {"leave", 90}, "!canonical:x": {"leave", 90}, "!server:far.org": {"leave", 90},
		"!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM": {"leave", 90},
		"!held:x": {"leave", 90}, "!deleting:x": {"leave", 90}, "!state:x": {"leave", 90},
	} {
		l.lodge(room, members...)
	}
	l.Exec(`DELETE FROM events WHERE event_id LIKE '$leave-80%!undated:x'`)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership) VALUES ('$j', '!state:x', 'm.room.member', '@u:x', 'join')`)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id) VALUES ('#a:x', '!alias:x')`)
	l.Exec(`INSERT INTO room_stats_state (room_id, canonical_alias) VALUES ('!canonical:x', '#c:far')`)
	l.place("!held:x")
	l.delete("!deleting:x", nil)
	options := forsaking()
	options.Retention.Abandoned.Exclude = []string{"!id:x", "#a:x", "#c:far", "far.org", "hash.org"}

	var want sweepResult
	want.Rooms = 15
	want.Skipped.Members, want.Skipped.Recent, want.Skipped.Undated, want.Skipped.Excluded = 4, 1, 2, 5
	want.Skipped.Held, want.Skipped.Deleting, want.Skipped.CoolingOff = 1, 1, 1
	require.Equal(t, want, l.look(options))
	require.Equal(t, want, l.look(options), "no time has passed")
	require.Empty(t, l.deletes())
	require.Equal(t, []string{"!gone:x"}, storetest.All[string](l.Lab, `SELECT room_id FROM lethe.abandoned_rooms`))

	l.passes(1)
	want.Skipped.CoolingOff, want.Enqueued = 0, 1
	require.Equal(t, want, l.look(options))
	require.Equal(t, []string{"!gone:x queued"}, l.deletes())
	want.Skipped.Deleting, want.Enqueued = 2, 0
	require.Equal(t, want, l.look(options), "it has one delete")

	l.Exec(`UPDATE lethe.jobs SET state = 'cancelled', ended_at = now(), error = NULL WHERE room_id = '!deleting:x'`)
	l.work(options)
	l.deleted()
	require.Equal(t, []string{"!gone:x complete"}, l.deletes())
	l.gone("!gone:x")
	require.Len(t, storetest.All[string](l.Lab, `SELECT room_id FROM rooms`), 14)
}

// A room is deleted only if all sweeps of the time find it abandoned.
func TestRoomThatIsNotAbandonedMeanwhileCoolsOffAgain(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.lodge("!back:x", "leave", 40)
	l.lodge("!held:x", "leave", 40)
	l.lodge("!lost:x", "leave", 40)
	require.EqualValues(t, 3, l.look(forsaking()).Skipped.CoolingOff)
	l.passes(9)
	l.enter("!back:x", "@u0:x", "join", 0)
	l.place("!held:x")
	l.Exec(`DELETE FROM rooms WHERE room_id = '!lost:x'`)
	got := l.look(forsaking())
	require.EqualValues(t, 1, got.Skipped.Members)
	require.EqualValues(t, 1, got.Skipped.Held)
	require.Empty(t, storetest.All[string](l.Lab, `SELECT room_id FROM lethe.abandoned_rooms`))

	l.release("!held:x")
	l.enter("!back:x", "@u0:x", "leave", 0)
	got = l.look(forsaking())
	require.EqualValues(t, 1, got.Skipped.Recent, "it was left today")
	require.EqualValues(t, 1, got.Skipped.CoolingOff)
	require.Empty(t, l.deletes())
}

func TestAbandonedRoomsPerRun(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for i := range 5 {
		l.lodge(fmt.Sprintf("!%d:x", i), "leave", 40)
	}
	options := forsaking()
	options.Retention.Abandoned.MaxPerRun = 3
	l.look(options)
	l.passes(1)
	got := l.look(options)
	require.EqualValues(t, 3, got.Enqueued)
	require.EqualValues(t, 2, got.Skipped.Capped)
	l.Exec(`UPDATE lethe.jobs SET state = 'failed', ended_at = now(), error = 'why' WHERE kind = 'delete_room'`)

	// The others have their turn before those whose delete has failed.
	got = l.look(options)
	require.EqualValues(t, 2, got.Enqueued)
	require.EqualValues(t, 3, got.Skipped.CoolingOff)
	require.Equal(t, []string{"!0:x failed", "!1:x failed", "!2:x failed", "!3:x queued", "!4:x queued"}, l.deletes())
}

// A delete checks the room again before it deletes anything.
func TestRoomThatAUserRejoinsStays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		happens func(l *lab, options *WorkerOptions)
		want    string
	}{
		"nothing": {func(*lab, *WorkerOptions) {}, "complete"},
		"join":    {func(l *lab, _ *WorkerOptions) { l.enter("!r:x", "@new:x", "join", 0) }, "cancelled"},
		"invite":  {func(l *lab, _ *WorkerOptions) { l.enter("!r:x", "@new:x", "invite", 50) }, "cancelled"},
		"visit":   {func(l *lab, _ *WorkerOptions) { l.enter("!r:x", "@new:x", "leave", 1) }, "cancelled"},
		"off":     {func(_ *lab, o *WorkerOptions) { o.Retention.Abandoned.Enabled = false }, "cancelled"},
		"exclude": {func(_ *lab, o *WorkerOptions) { o.Retention.Abandoned.Exclude = []string{"x"} }, "cancelled"},
		"hold":    {func(l *lab, _ *WorkerOptions) { l.place("!r:x") }, "held"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.lodge("!r:x", "leave", 40)
			options := forsaking()
			l.look(options)
			l.passes(1)
			require.EqualValues(t, 1, l.look(options).Enqueued)
			c.happens(l, &options)
			before := l.rows("!r:x")
			l.work(options)
			l.deleted()
			require.Equal(t, []string{"!r:x " + c.want}, l.deletes())
			if c.want != "complete" {
				require.Equal(t, before, l.rows("!r:x"))
			}
			if c.want == "held" {
				l.release("!r:x")
				l.deleted()
				require.Equal(t, []string{"!r:x complete"}, l.deletes())
			}
		})
	}
}
