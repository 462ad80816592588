package messages

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// caseReader is a member of the rooms of the cases.
const caseReader = "@bob:lab.test"

// newCase returns the recorded corpus, changed by the SQL of a reported case.
func newCase(t *testing.T, name string) *house {
	t.Helper()
	sql, err := os.ReadFile(devstacktest.Shared(t, "cases", name))
	require.NoError(t, err)
	h := houseAt(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")), Options{})
	h.requireExec(string(sql))
	return h
}

// requireEvents returns the newest events of a room, as the user reads them.
func (h *house) requireEvents(room, user string) []event {
	h.t.Helper()
	page, err := h.Page(h.ctx, Request{Room: room, Reader: Reader{UserID: user}, Backwards: true, Limit: 500})
	require.NoError(h.t, err)
	return decodedAll(h.t, page.Chunk)
}

func TestCaseOfForgedUnsigned(t *testing.T) {
	t.Parallel()
	h := newCase(t, "02-unsigned.sql")
	const room = "!KBGbwWNkqPqBYFEEJf:lab.test"
	var id string
	require.NoError(t, h.conn.QueryRow(h.ctx, `SELECT event_id FROM event_json WHERE room_id = $1 AND json LIKE '%forged%'`, room).Scan(&id))
	for _, e := range h.requireEvents(room, caseReader) {
		if e["event_id"] == id {
			unsigned := e["unsigned"].(event)
			require.Contains(t, unsigned, "age")
			delete(unsigned, "age")
			require.Equal(t, event{"membership": "join"}, unsigned)
			return
		}
	}
	t.Fatal("the event is not on the page")
}

// A remote server that says which event a state event replaced cannot have an event of
// another room shown.
func TestReplacedStateIsOfTheRoom(t *testing.T) {
	t.Parallel()
	h := newHouse(t, Options{})
	secret := h.newRoom("!secret:x", "joined")
	secret.set("m.room.topic", "", `{"topic":"secret"}`)
	stolen := secret.last().ID
	r := h.newRoom("!room:x", "shared")
	r.set("m.room.topic", "", `{"topic":"old"}`)
	r.set("m.room.topic", "", `{"topic":"new"}`)
	old := r.events[len(r.events)-2].ID
	r.member("@a:x", "join")
	topic := func() json.RawMessage {
		for _, e := range r.requireEvents(r.id, "@a:x") {
			if e["event_id"] == r.state[topicKey] {
				text, err := json.Marshal(e["unsigned"].(event)["prev_content"])
				require.NoError(t, err)
				return text
			}
		}
		return nil
	}
	require.JSONEq(t, `{"topic":"old"}`, string(topic()))
	h.requireExec(`UPDATE event_json SET json = replace(json, $2, $3) WHERE event_id = $1`, r.state[topicKey], old, stolen)
	require.JSONEq(t, `null`, string(topic()))
}

func TestCaseOfBannedUsersMessages(t *testing.T) {
	t.Parallel()
	h := newCase(t, "06-banned-users-messages.sql")
	ban, seen := "$t9nATYQKN7vHgLlAMOnOfFCe2CkOXNPC6ll9HvZAG_4", 0
	for _, e := range h.requireEvents("!EwhnVUayBUwCfHCTMq:lab.test", caseReader) {
		if e["sender"] == "@dave:lab.test" && e["type"] == "m.room.message" {
			require.Empty(t, e["content"])
			if e["unsigned"].(event)["redacted_because"].(event)["event_id"] == ban { // others were redacted one by one
				seen++
			}
		}
	}
	require.Positive(t, seen)
}

func TestCaseOfNoCreateEvent(t *testing.T) {
	t.Parallel()
	h := newCase(t, "04-no-create-event.sql")
	require.Len(t, h.requireEvents("!uLenUygWgGOSQDCxUO:lab.test", caseReader), 160)
}

func TestCaseOfUnreadableEvents(t *testing.T) {
	t.Parallel()
	h := newCase(t, "05-unreadable-events.sql")
	events := h.requireEvents("!KBGbwWNkqPqBYFEEJf:lab.test", caseReader)
	require.NotEmpty(t, events)
	for _, e := range events {
		require.IsType(t, event{}, e["content"])
		require.IsType(t, "", e["sender"])
	}
}
