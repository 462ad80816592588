package messages

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTablesOfAnEvent has rows in all tables that Synapse reads for an event: events,
// event_json, rooms, rejections, redactions and room_ban_redactions.
func TestTablesOfAnEvent(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!room:x", "shared")
	r.member("@a:x", "join")
	say := func(sender, text string) string {
		r.requireWrite("m.room.message", sender, nil, `{"body":"`+text+`"}`)
		return r.last().ID
	}
	redact := func(sender, target string) string {
		r.requireWrite("m.room.redaction", sender, nil, `{"redacts":"`+target+`","reason":"why"}`)
		h.requireExec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, false)`, r.last().ID, target)
		return r.last().ID
	}
	kept, gone := say("@owner:x", "kept"), say("@owner:x", "no JSON")
	rejected, redacted := say("@owner:x", "rejected"), say("@owner:x", "redacted")
	said, again := say("@spam:y", "said"), say("@spam:y", "redacted as well")
	redaction, other := redact("@owner:x", redacted), redact("@a:x", again)
	r.set("m.room.member", "@spam:y", `{"membership":"ban","reason":"spam"}`)
	ban := r.last().ID
	r.requireWrite("m.room.member", "@spam:y", new("@spam:y"), `{"membership":"join"}`)
	end := r.last().Stream
	later := say("@spam:y", "let in again")
	h.requireExec(`DELETE FROM event_json WHERE event_id = $1`, gone)
	h.requireExec(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, '', '')`, rejected)
	setBan := func(room, user, by string, end *int64) {
		h.requireExec(`DELETE FROM room_ban_redactions`)
		h.requireExec(`INSERT INTO room_ban_redactions VALUES ($1, $2, $3, $4)`, room, user, by, end)
	}
	// by returns what redacts an event, nil if it is not redacted.
	by := func(id string) any {
		for _, e := range h.requireEvents(r.id, "@a:x") {
			if e["event_id"] == id {
				unsigned := e["unsigned"].(event)
				require.Equal(t, unsigned["redacted_by"] == nil, e["content"].(event)["body"] != nil)
				return unsigned["redacted_by"]
			}
		}
		return "the event is not shown"
	}
	require.Nil(t, by(kept))
	require.Equal(t, "the event is not shown", by(gone))
	require.Equal(t, "the event is not shown", by(rejected))
	require.Equal(t, redaction, by(redacted))
	require.Nil(t, by(said))

	setBan(r.id, "@spam:y", ban, &end)
	require.Equal(t, ban, by(said))
	require.Equal(t, other, by(again), "a confirmed redaction comes first")
	require.Nil(t, by(later))
	require.Nil(t, by(kept))
	for _, endless := range []*int64{nil, new(int64)} {
		setBan(r.id, "@spam:y", ban, endless)
		require.Equal(t, ban, by(later))
	}
	h.requireExec(`UPDATE events SET stream_ordering = -stream_ordering WHERE event_id = $1`, said)
	setBan(r.id, "@spam:y", ban, &end)
	require.Equal(t, ban, by(said), "a backfilled event")

	setBan("!other:x", "@spam:y", ban, nil)
	require.Nil(t, by(said))
	setBan(r.id, "@spam:y", "$unknown", nil)
	require.Nil(t, by(said))
	setBan(r.id, "@spam:y", rejected, nil)
	require.Nil(t, by(said))
	setBan(r.id, "@spam:y", h.newRoom("!elsewhere:x", "").last().ID, nil)
	require.Nil(t, by(said))
	setBan(r.id, "@spam:y", ban, nil)
	h.requireExec(`UPDATE event_json SET internal_metadata = '{"recheck_redaction":true}' WHERE event_id = $1`, ban)
	require.Nil(t, by(said), "the ban is by another server")

	h.requireExec(`UPDATE rooms SET room_version = 'unknown'`)
	require.Empty(t, h.requireEvents(r.id, "@a:x"))
}

// Homeservers before schema 92 do not have the table. An upgrade brings it.
func TestNoTableOfBans(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	h.requireExec(`ALTER TABLE room_ban_redactions RENAME TO not_yet`)
	r := h.newRoom("!room:x", "shared")
	r.member("@a:x", "join")
	r.say("hello")
	require.Len(t, h.requireEvents(r.id, "@a:x"), 6)
	h.requireExec(`ALTER TABLE not_yet RENAME TO room_ban_redactions`)
	h.requireExec(`INSERT INTO room_ban_redactions VALUES ($1, '@owner:x', $2)`, r.id, r.last().ID)
	require.Empty(t, h.requireEvents(r.id, "@a:x")[0]["content"])
}

func TestRedactedRedaction(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	r := h.newRoom("!room:x", "shared")
	r.member("@a:x", "join")
	r.say("said")
	target := r.last().ID
	for range 2 {
		r.requireWrite("m.room.redaction", "@owner:x", nil, `{"redacts":"`+target+`","reason":"private"}`)
		h.requireExec(`INSERT INTO redactions (event_id, redacts, recheck) VALUES ($1, $2, false)`, r.last().ID, target)
		target = r.last().ID
	}
	events := h.requireEvents(r.id, "@a:x")
	said, redaction := events[2], events[1]
	because := said["unsigned"].(event)["redacted_because"].(event)
	require.Equal(t, redaction["event_id"], because["event_id"])
	require.Equal(t, event{"redacts": said["event_id"]}, because["content"])
	require.NotContains(t, because["unsigned"], "redacted_because")
	require.Equal(t, "private", redaction["unsigned"].(event)["redacted_because"].(event)["content"].(event)["reason"])

	// A redaction by a ban counts, too. Without a row the other redaction is not shown.
	h.requireExec(`DELETE FROM redactions WHERE redacts = $1`, redaction["event_id"])
	because = h.requireEvents(r.id, "@a:x")[1]["unsigned"].(event)["redacted_because"].(event)
	require.Equal(t, "private", because["content"].(event)["reason"])
	r.set("m.room.member", "@owner:x", `{"membership":"ban"}`)
	h.requireExec(`INSERT INTO room_ban_redactions VALUES ($1, '@owner:x', $2)`, r.id, r.last().ID)
	because = h.requireEvents(r.id, "@a:x")[2]["unsigned"].(event)["redacted_because"].(event)
	require.NotContains(t, because["content"], "reason")
}
