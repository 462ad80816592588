package roomwriter_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/matrix"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
	"lethe/internal/store/storetest"
)

// write runs do in a batch of its own and room.
func (l *lab) write(do func(*roomwriter.EventWriter) error) error {
	l.T.Helper()
	batch := l.Work(room)
	err := l.InBatch(batch, func(b *journal.Batch) (any, error) { return "written", roomwriter.Write(l.Ctx, b, do) })
	if err == nil {
		job, err := l.Journal.Job(l.Ctx, batch.Run.JobID)
		require.NoError(l.T, err)
		require.Equal(l.T, `"written"`, string(job.Checkpoint))
	}
	require.NoError(l.T, l.Journal.EndJob(l.Ctx, batch.Run, journal.Complete, ""))
	return err
}

// say writes the next event of a room, unsigned.
func (l *lab) say(r *roomwriter.RoomWriter, e matrix.Event) (matrix.SealedEvent, error) {
	l.T.Helper()
	extremities, err := r.Extremities(l.Ctx)
	require.NoError(l.T, err)
	e.RoomID, e.PrevEvents, e.Depth, e.OriginServerTS = r.ID(), extremities.Prev, extremities.Depth, extremities.Now
	keys := matrix.AuthTypes(r.Version(), e)
	state, err := r.State(l.Ctx, extremities, keys...)
	require.NoError(l.T, err)
	for _, key := range keys {
		if allowing, ok := state[key]; ok {
			e.AuthEvents = append(e.AuthEvents, allowing.ID)
		}
	}
	sealed, err := e.Seal(r.Version(), "x", nil)
	require.NoError(l.T, err)
	return sealed, r.Write(l.Ctx, extremities, sealed)
}

func create() matrix.Event {
	return matrix.Event{
		Type: "m.room.create", Sender: "@a:x", StateKey: new(string),
		Content: map[string]any{"room_version": "11"},
	}
}

func member(user, membership string) matrix.Event {
	return matrix.Event{
		Type: "m.room.member", Sender: user, StateKey: &user, Content: map[string]any{"membership": membership},
	}
}

func topic(text string) matrix.Event {
	return matrix.Event{Type: "m.room.topic", Sender: "@a:x", StateKey: new(string), Content: map[string]any{"topic": text}}
}

func TestWrittenRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var r *roomwriter.RoomWriter
	require.NoError(t, l.write(func(w *roomwriter.EventWriter) error {
		var err error
		if r, err = w.NewRoom(l.Ctx, "!new:x", "11", "@a:x"); err != nil {
			return err
		}
		_, err = w.NewRoom(l.Ctx, "!new:x", "11", "@b:x")
		require.ErrorIs(t, err, journal.ErrExists)
		again, err := w.Room(l.Ctx, "!new:x")
		require.NoError(t, err)
		require.Same(t, r, again)
		_, err = w.Room(l.Ctx, "!other:x")
		require.ErrorIs(t, err, postgres.ErrNotFound)

		_, err = l.say(r, member("@a:x", "join"))
		require.ErrorContains(t, err, "no event to follow")
		for _, e := range []matrix.Event{create(), member("@a:x", "join"), member("@b:x", "join"), topic("one"), topic("two"), member("@b:x", "leave")} {
			if _, err := l.say(r, e); err != nil {
				return err
			}
		}
		now, err := w.Membership(l.Ctx, "!new:x", "@b:x")
		require.NoError(t, err)
		require.Equal(t, "leave", now.Membership)
		require.NotEmpty(t, now.EventID)
		nothing, err := w.Membership(l.Ctx, "!new:x", "@c:x")
		require.NoError(t, err)
		require.Zero(t, nothing)
		_, err = w.EventJSON(l.Ctx, "$none")
		require.ErrorIs(t, err, postgres.ErrNotFound)
		text, err := w.EventJSON(l.Ctx, now.EventID)
		require.NoError(t, err)
		require.Contains(t, string(text), `"replaces_state"`)
		return nil
	}))
	require.Equal(t, []string{"4 1 1"}, storetest.All[string](l.Lab, `
		SELECT concat_ws(' ', current_state_events, joined_members, left_members) FROM room_stats_current`))
	// A leave follows the join, which permits it. No topic permits another.
	require.Equal(t, []string{
		"m.room.create 1", "m.room.member 1", "m.room.member 1", "m.room.member 2", "m.room.topic 1", "m.room.topic 1",
	}, storetest.All[string](l.Lab, `SELECT e.type || ' ' || c.sequence_number FROM event_auth_chains c JOIN events e USING (event_id) ORDER BY 1`))
	require.EqualValues(t, 6, storetest.One[int64](l.Lab, `SELECT max(depth) FROM events`))
	require.Equal(t, []string{"@b:x"}, storetest.All[string](l.Lab, `
		SELECT state_key FROM current_state_delta_stream WHERE prev_event_id IS NOT NULL AND type = 'm.room.member'`))
}

func TestAttemptUndoesOnlyItself(t *testing.T) {
	t.Parallel()
	l := setup(t)
	refusal := errors.New("no")
	require.NoError(t, l.write(func(w *roomwriter.EventWriter) error {
		r, err := w.NewRoom(l.Ctx, "!new:x", "11", "@a:x")
		require.NoError(t, err)
		for _, e := range []matrix.Event{create(), member("@a:x", "join")} {
			refused, err := w.Attempt(l.Ctx, func() error {
				_, err := l.say(r, e)
				return err
			})
			require.NoError(t, refused)
			require.NoError(t, err)
		}
		refused, err := w.Attempt(l.Ctx, func() error {
			_, err := l.say(r, member("@b:x", "join"))
			require.NoError(t, err)
			return refusal
		})
		require.ErrorIs(t, refused, refusal)
		require.NoError(t, err)
		_, err = l.say(r, topic("after it"))
		return err
	}))
	require.Equal(t, []string{"m.room.create", "m.room.member", "m.room.topic"}, storetest.All[string](l.Lab, `SELECT type FROM events ORDER BY depth`))
	require.Equal(t, []string{"@a:x"}, storetest.All[string](l.Lab, `SELECT user_id FROM local_current_membership`))

	// Without a connection the cause is unknown.
	l.RequireUnchanged(func() {
		ctx, cancel := context.WithCancel(l.Ctx)
		batch := l.Work("!again:x")
		b := l.Journal.Begin(batch.Run, batch.RoomLock)
		err := roomwriter.Write(ctx, b, func(w *roomwriter.EventWriter) error {
			refused, err := w.Attempt(ctx, func() error {
				cancel()
				return refusal
			})
			require.NoError(t, refused)
			require.ErrorIs(t, err, refusal)
			return err
		})
		b.Rollback(ctx)
		require.ErrorIs(t, err, refusal)
		l.Exec(`DELETE FROM lethe.jobs WHERE room_id = '!again:x'`)
		l.Exec(`DELETE FROM lethe.room_fences WHERE room_id = '!again:x'`)
	})
}

func TestWriterKeepsARoomFromBeingDeleted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO rooms (room_id, room_version) VALUES ('!new:x', '11')`)
	require.NoError(t, l.write(func(w *roomwriter.EventWriter) error {
		_, err := w.Room(l.Ctx, "!new:x")
		require.NoError(t, err)
		for _, mode := range []string{"UPDATE", "SHARE"} {
			_, err = l.Conn.Exec(l.Ctx, `SELECT FROM rooms WHERE room_id = '!new:x' FOR `+mode+` NOWAIT`)
			require.ErrorContains(t, err, "could not obtain lock", mode)
		}
		_, err = l.Conn.Exec(l.Ctx, `SELECT FROM rooms WHERE room_id = '!new:x' FOR KEY SHARE NOWAIT`)
		require.NoError(t, err, "what references the room need not wait")
		return nil
	}))
	l.Exec(`DELETE FROM rooms`)
}

func TestTimeIsTheDatabases(t *testing.T) {
	t.Parallel()
	l := setup(t)
	require.NoError(t, l.write(func(w *roomwriter.EventWriter) error {
		now, err := w.Now(l.Ctx)
		require.NoError(t, err)
		require.InDelta(t, time.Now().UnixMilli(), now, 60_000)
		return nil
	}))
}

func TestNextDepth(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int64]int64{
		0: 1, 41: 42, -7: 1, math.MinInt64: 1, 1<<53 - 2: 1<<53 - 1, 1<<53 - 1: 1<<53 - 1, math.MaxInt64: 1<<53 - 1,
	} {
		require.Equal(t, want, roomwriter.NextDepth(depth), depth)
	}
}

func TestProfileAndForget(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership)
		VALUES ('$1', '@a:x', '@a:x', '!r:x', 'leave'), ('$2', '@a:x', '@a:x', '!other:x', 'leave'), ('$3', '@b:x', '@b:x', '!r:x', 'leave')`)
	read := func(localpart string) (got []*string) {
		require.NoError(t, l.write(func(w *roomwriter.EventWriter) error {
			name, avatar, err := w.Profile(l.Ctx, localpart)
			got = []*string{name, avatar}
			return errors.Join(err, w.Forget(l.Ctx, "!r:x", "@a:x"))
		}))
		return got
	}
	require.Equal(t, []*string{nil, nil}, read("a"), "the embedded schema has no profiles")
	require.Equal(t, []string{"$1"}, storetest.All[string](l.Lab, `SELECT event_id FROM room_memberships WHERE forgotten = 1`))
	l.Exec(`CREATE TABLE profiles (user_id text, displayname text, avatar_url text)`)
	l.Exec(`INSERT INTO profiles VALUES ('a', 'Ann', 'mxc://x/1'), ('b', '', NULL)`)
	ann, avatar := "Ann", "mxc://x/1"
	require.Equal(t, []*string{&ann, &avatar}, read("a"))
	require.Equal(t, []*string{nil, nil}, read("b"))
	require.Equal(t, []*string{nil, nil}, read("nobody"))
}
