package roomwriter_test

import (
	"testing"
	"time"

	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"

	"github.com/stretchr/testify/require"
)

// room makes a room of the creator whose create event has the JSON, so long ago.
func (l *lab) room(id, creator, create string, age time.Duration, ready bool) {
	l.T.Helper()
	l.Exec(`INSERT INTO rooms (room_id, creator) VALUES ($1, $2)`, id, creator)
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, received_ts)
		SELECT $1 || '/' || n, $1, 't', 1, 1, nextval('events_stream_seq'), true, false,
		       extract(epoch FROM clock_timestamp() - $2::interval) * 1000
		FROM generate_series(1, 2) n`, id, age)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1 || '/1', $1, 'm.room.create', '')`, id)
	l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ($1 || '/1', $1, '{}', $2)`, id, create)
	if ready {
		l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1 || '/2', $1, 'm.room.join_rules', '')`, id)
	}
}

func TestFindCreatedRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const ours = `{"content":{"org.lethe.job_id":"JobJobJobJobJobJ"}}`
	find := func() (string, bool) {
		t.Helper()
		room, ready, err := roomwriter.FindCreatedRoom(l.Ctx, l.DB, "@owner:x", "JobJobJobJobJobJ")
		if err != nil {
			require.ErrorIs(t, err, postgres.ErrNotFound)
			return "", false
		}
		return room, ready
	}
	// What has the id elsewhere, is another user's, or is no event.
	l.room("!1", "@owner:x", `{"content":{"name":"JobJobJobJobJobJ"}}`, 0, true)
	l.room("!2", "@owner:x", `{"org.lethe.job_id":"JobJobJobJobJobJ"}`, 0, true)
	l.room("!3", "@owner:x", `{"content":{"org.lethe.job_id":["JobJobJobJobJobJ"],"a":"\u0000"}}`, 0, true)
	l.room("!4", "@owner:x", `{"content":"org.lethe.job_id JobJobJobJobJobJ"}`, 0, true)
	l.room("!5", "@owner:x", `JobJobJobJobJobJ {`, 0, true)
	l.room("!6", "@other:x", ours, 0, true)
	l.room("!7", "@owner:x", `{"content":{"org.lethe.job_id":"JobJobJobJobJobJa"}}`, 0, true)
	room, _ := find()
	require.Empty(t, room)

	// Not yet ready, then too old to become so.
	l.room("!8", "@owner:x", ours, 0, false)
	room, ready := find()
	require.Equal(t, "!8", room)
	require.False(t, ready)
	l.Exec(`UPDATE events SET received_ts = received_ts - 61000 WHERE room_id = '!8'`)
	room, _ = find()
	require.Empty(t, room)

	l.room("!9", "@owner:x", ours, 24*time.Hour, true)
	l.room("!10", "@owner:x", ours, 0, true)
	room, ready = find()
	require.Equal(t, "!9", room, "the first")
	require.True(t, ready)
}

func TestSentMessage(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for id, event := range map[string][3]string{
		"$1": {"!other", "@owner:x", `{"content":{"org.lethe.job_id":"job"}}`},
		"$2": {"!room", "@other:x", `{"content":{"org.lethe.job_id":"job"}}`},
		"$3": {"!room", "@owner:x", `{"content":{"body":"job"}}`},
	} {
		l.Exec(`
			INSERT INTO events (event_id, room_id, sender, type, topological_ordering, depth, stream_ordering, processed, outlier)
			VALUES ($1, $2, $3, 'm.room.message', 1, 1, nextval('events_stream_seq'), true, false)`, id, event[0], event[1])
		l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json) VALUES ($1, $2, '{}', $3)`, id, event[0], event[2])
	}
	sent, err := roomwriter.SentMessage(l.Ctx, l.DB, "!room", "@owner:x", "job")
	require.NoError(t, err)
	require.False(t, sent)
	sent, err = roomwriter.SentMessage(l.Ctx, l.DB, "!other", "@owner:x", "job")
	require.NoError(t, err)
	require.True(t, sent)
}

func TestLocalAliases(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id) VALUES ('#b:x', '!r'), ('#a:x', '!r'), ('#c:x', '!other')`)
	aliases, err := roomwriter.LocalAliases(l.Ctx, l.DB, "!r")
	require.NoError(t, err)
	require.Equal(t, []string{"#a:x", "#b:x"}, aliases)
}
