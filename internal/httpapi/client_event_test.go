package httpapi

import (
	"encoding/json"
	"testing"
	"time"

	"lethe/internal/store"
)

// FuzzClientEvent holds that whatever lies in the database for an event, what it
// replaced and what redacts it, becomes JSON without what is not for clients.
func FuzzClientEvent(f *testing.F) {
	for _, event := range []string{
		`{"type":"m.room.member","state_key":"@a:x","content":{"membership":"join"},"unsigned":{"replaces_state":"$p","age_ts":1}}`,
		`{"type":"m.room.redaction","redacts":"$e","content":{}}`, `{"content":[],"unsigned":{"age_ts":1e999}}`, `{"unsigned":[]}`,
		`null`, `[`, ``, `{"a":1,"a":2}`, `{"type":"m.room.create","content":null}`, "{\"type\":\"\xff\"}",
	} {
		f.Add([]byte(event), []byte(`{"content":{},"sender":{}}`), []byte(`{"type":"m.room.redaction"}`), "10")
		f.Add([]byte(`{"state_key":null,"unsigned":{"replaces_state":"$p"}}`), []byte(event), []byte(event), "12")
	}
	f.Fuzz(func(t *testing.T, event, previous, redaction []byte, version string) {
		events := map[string]store.Event{"$p": {ID: "$p", Room: "!r:x", JSON: previous, RoomVersion: &version}}
		for _, redactedBy := range []*string{nil, new("$r")} {
			body, ok := clientEvent(store.Event{
				ID: "$e", Room: "!r:x", JSON: event, RoomVersion: &version, RedactedBy: redactedBy, Redaction: redaction,
			}, events, time.Now())
			if !ok {
				continue
			}
			text, err := json.Marshal(body)
			if err != nil {
				t.Fatalf("%q is no JSON: %v", body, err)
			}
			var read map[string]any // a struct would match keys in any letter case
			if err := json.Unmarshal(text, &read); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if _, ok := read["unsigned"].(map[string]any); !ok || read["event_id"] != "$e" || read["signatures"] != nil {
				t.Fatalf("%s", text)
			}
		}
	})
}
