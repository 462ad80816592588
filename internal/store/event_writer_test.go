package store_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/matrix"
	"lethe/internal/store"
)

// write runs do in a batch of its own and room.
func (l *lab) write(do func(*store.EventWriter) error) error {
	l.t.Helper()
	batch := l.begin(room)
	err := l.store.WriteEvents(l.ctx, batch, func(w *store.EventWriter) (any, error) { return "written", do(w) })
	if err == nil {
		job, err := l.store.Job(l.ctx, batch.Run.JobID)
		require.NoError(l.t, err)
		require.Equal(l.t, `"written"`, string(job.Checkpoint))
	}
	require.NoError(l.t, l.store.EndJob(l.ctx, batch.Run, store.JobComplete, ""))
	return err
}

// say writes the next event of a room, unsigned.
func (l *lab) say(r *store.RoomWriter, e matrix.Event) (matrix.SealedEvent, error) {
	l.t.Helper()
	tips, err := r.Tips(l.ctx)
	require.NoError(l.t, err)
	e.RoomID, e.PrevEvents, e.Depth, e.OriginServerTS = r.ID(), tips.Prev, tips.Depth, tips.Now
	keys := matrix.AuthTypes(r.Version(), e)
	state, err := r.State(l.ctx, tips, keys...)
	require.NoError(l.t, err)
	for _, key := range keys {
		if allowing, ok := state[key]; ok {
			e.AuthEvents = append(e.AuthEvents, allowing.ID)
		}
	}
	sealed, err := e.Seal(r.Version(), "x", nil)
	require.NoError(l.t, err)
	return sealed, r.Write(l.ctx, tips, sealed)
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
	var r *store.RoomWriter
	require.NoError(t, l.write(func(w *store.EventWriter) error {
		var err error
		if r, err = w.NewRoom(l.ctx, "!new:x", "11", "@a:x"); err != nil {
			return err
		}
		_, err = w.NewRoom(l.ctx, "!new:x", "11", "@b:x")
		require.ErrorIs(t, err, store.ErrExists)
		again, err := w.Room(l.ctx, "!new:x")
		require.NoError(t, err)
		require.Same(t, r, again)
		_, err = w.Room(l.ctx, "!other:x")
		require.ErrorIs(t, err, store.ErrNotFound)

		_, err = l.say(r, member("@a:x", "join"))
		require.ErrorContains(t, err, "no event to follow")
		for _, e := range []matrix.Event{create(), member("@a:x", "join"), member("@b:x", "join"), topic("one"), topic("two"), member("@b:x", "leave")} {
			if _, err := l.say(r, e); err != nil {
				return err
			}
		}
		now, err := w.Membership(l.ctx, "!new:x", "@b:x")
		require.NoError(t, err)
		require.Equal(t, "leave", now.Membership)
		require.NotEmpty(t, now.EventID)
		nothing, err := w.Membership(l.ctx, "!new:x", "@c:x")
		require.NoError(t, err)
		require.Zero(t, nothing)
		_, err = w.EventJSON(l.ctx, "$none")
		require.ErrorIs(t, err, store.ErrNotFound)
		text, err := w.EventJSON(l.ctx, now.EventID)
		require.NoError(t, err)
		require.Contains(t, string(text), `"replaces_state"`)
		return nil
	}))
	require.Equal(t, []string{"4 1 1"}, all[string](l, `
		SELECT concat_ws(' ', current_state_events, joined_members, left_members) FROM room_stats_current`))
	// A leave follows the join, which permits it. No topic permits another.
	require.Equal(t, []string{
		"m.room.create 1", "m.room.member 1", "m.room.member 1", "m.room.member 2", "m.room.topic 1", "m.room.topic 1",
	}, all[string](l, `SELECT e.type || ' ' || c.sequence_number FROM event_auth_chains c JOIN events e USING (event_id) ORDER BY 1`))
	require.EqualValues(t, 6, one[int64](l, `SELECT max(depth) FROM events`))
	require.Equal(t, []string{"@b:x"}, all[string](l, `
		SELECT state_key FROM current_state_delta_stream WHERE prev_event_id IS NOT NULL AND type = 'm.room.member'`))
}

func TestAttemptUndoesOnlyItself(t *testing.T) {
	t.Parallel()
	l := setup(t)
	refusal := errors.New("no")
	require.NoError(t, l.write(func(w *store.EventWriter) error {
		r, err := w.NewRoom(l.ctx, "!new:x", "11", "@a:x")
		require.NoError(t, err)
		for _, e := range []matrix.Event{create(), member("@a:x", "join")} {
			refused, err := w.Attempt(l.ctx, func() error {
				_, err := l.say(r, e)
				return err
			})
			require.NoError(t, refused)
			require.NoError(t, err)
		}
		refused, err := w.Attempt(l.ctx, func() error {
			_, err := l.say(r, member("@b:x", "join"))
			require.NoError(t, err)
			return refusal
		})
		require.ErrorIs(t, refused, refusal)
		require.NoError(t, err)
		_, err = l.say(r, topic("after it"))
		return err
	}))
	require.Equal(t, []string{"m.room.create", "m.room.member", "m.room.topic"}, all[string](l, `SELECT type FROM events ORDER BY depth`))
	require.Equal(t, []string{"@a:x"}, all[string](l, `SELECT user_id FROM local_current_membership`))

	// Without a connection nothing can be judged.
	l.unchanged(func() {
		ctx, cancel := context.WithCancel(l.ctx)
		batch := l.begin("!again:x")
		err := l.store.WriteEvents(ctx, batch, func(w *store.EventWriter) (any, error) {
			refused, err := w.Attempt(ctx, func() error {
				cancel()
				return refusal
			})
			require.NoError(t, refused)
			require.ErrorIs(t, err, refusal)
			return nil, err
		})
		require.ErrorIs(t, err, refusal)
		l.exec(`DELETE FROM lethe.jobs WHERE room_id = '!again:x'`)
		l.exec(`DELETE FROM lethe.room_fences WHERE room_id = '!again:x'`)
	})
}

func TestWriterKeepsARoomFromBeingDeleted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.exec(`INSERT INTO rooms (room_id, room_version) VALUES ('!new:x', '11')`)
	require.NoError(t, l.write(func(w *store.EventWriter) error {
		_, err := w.Room(l.ctx, "!new:x")
		require.NoError(t, err)
		for _, mode := range []string{"UPDATE", "SHARE"} {
			_, err = l.conn.Exec(l.ctx, `SELECT FROM rooms WHERE room_id = '!new:x' FOR `+mode+` NOWAIT`)
			require.ErrorContains(t, err, "could not obtain lock", mode)
		}
		_, err = l.conn.Exec(l.ctx, `SELECT FROM rooms WHERE room_id = '!new:x' FOR KEY SHARE NOWAIT`)
		require.NoError(t, err, "what references the room need not wait")
		return nil
	}))
	l.exec(`DELETE FROM rooms`)
}

func TestTimeIsTheDatabases(t *testing.T) {
	t.Parallel()
	l := setup(t)
	require.NoError(t, l.write(func(w *store.EventWriter) error {
		now, err := w.Now(l.ctx)
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
		require.Equal(t, want, store.NextDepth(depth), depth)
	}
}

func TestProfileAndForget(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.exec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership)
		VALUES ('$1', '@a:x', '@a:x', '!r:x', 'leave'), ('$2', '@a:x', '@a:x', '!other:x', 'leave'), ('$3', '@b:x', '@b:x', '!r:x', 'leave')`)
	read := func(localpart string) (got []*string) {
		require.NoError(t, l.write(func(w *store.EventWriter) error {
			name, avatar, err := w.Profile(l.ctx, localpart)
			got = []*string{name, avatar}
			return errors.Join(err, w.Forget(l.ctx, "!r:x", "@a:x"))
		}))
		return got
	}
	require.Equal(t, []*string{nil, nil}, read("a"), "the embedded schema has no profiles")
	require.Equal(t, []string{"$1"}, all[string](l, `SELECT event_id FROM room_memberships WHERE forgotten = 1`))
	l.exec(`CREATE TABLE profiles (user_id text, displayname text, avatar_url text)`)
	l.exec(`INSERT INTO profiles VALUES ('a', 'Ann', 'mxc://x/1'), ('b', '', NULL)`)
	ann, avatar := "Ann", "mxc://x/1"
	require.Equal(t, []*string{&ann, &avatar}, read("a"))
	require.Equal(t, []*string{nil, nil}, read("b"))
	require.Equal(t, []*string{nil, nil}, read("nobody"))
}
