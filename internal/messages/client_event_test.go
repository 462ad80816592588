package messages

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"lethe/internal/store/timeline"

	"github.com/stretchr/testify/require"
)

// stored is an event of a room of that version, by its JSON alone.
func stored(version, text string) *timeline.Event {
	e := &timeline.Event{ID: "$e", JSON: json.RawMessage(text)}
	if version != "" {
		e.RoomVersion = &version
	}
	return e
}

// requireWritten returns the event as the format writes it.
func (f Format) requireWritten(t *testing.T, event, previous *timeline.Event) string {
	t.Helper()
	f.Room, f.Now = "!r:x", time.UnixMilli(1000)
	text, ok := f.Append([]byte("before"), event, previous)
	require.True(t, ok)
	rest, ok := strings.CutPrefix(string(text), "before")
	require.True(t, ok)
	return rest
}

const wholeEvent = `{"auth_events":["$a"],"prev_events":["$p"],"hashes":{},"signatures":{},"depth":5,"origin":"x","prev_state":[],"event_id":"$lie",
	"type":"m.room.topic","state_key":"","sender":"@a:x","user_id":"@lie:x","room_id":"!lie:x","origin_server_ts":7,"age":1,"prev_content":"mine",
	"content":{"topic":"<t>\u0000","n":1e400},"other":[1,2],"unsigned":{"age_ts":400,"age":3,"replaces_state":"$old","invite_room_state":[],
	"knock_room_state":[],"prev_content":{"topic":"told"},"prev_sender":"@told:x","odd":{}}}`

func TestFormats(t *testing.T) {
	t.Parallel()
	previous := stored("10", `{"type":"m.room.topic","sender":"@b:x","content":{"topic":"before"}}`)
	const asClient = `"type":"m.room.topic","state_key":"","sender":"@a:x","room_id":"!r:x","event_id":"$e","origin_server_ts":7,"other":[1,2],"content":{"topic":"<t>\u0000","n":1e400}`
	const forServers = `"auth_events":["$a"],"prev_events":["$p"],"hashes":{},"signatures":{},"depth":5,"origin":"x","prev_state":[],`
	const unsigned = `{"age":600,"replaces_state":"$old",`
	for name, test := range map[string]struct {
		raw      bool
		previous *timeline.Event
		want     string
	}{
		"client": {want: `{` + asClient + `,"user_id":"@a:x","age":600,"replaces_state":"$old","prev_content":{"topic":"told"},
			"unsigned":` + unsigned + `"prev_content":{"topic":"told"},"prev_sender":"@told:x"}}`},
		"client with what it replaced": {previous: previous, want: `{` + asClient + `,"user_id":"@a:x","age":600,"replaces_state":"$old","prev_content":{"topic":"before"},
			"unsigned":` + unsigned + `"prev_content":{"topic":"before"},"prev_sender":"@b:x"}}`},
		"raw": {raw: true, want: `{` + forServers + asClient + `,"user_id":"@lie:x","age":1,"prev_content":"mine",
			"unsigned":` + unsigned + `"prev_content":{"topic":"told"},"prev_sender":"@told:x"}}`},
		"raw with what it replaced": {raw: true, previous: previous, want: `{` + forServers + asClient + `,"user_id":"@lie:x","age":1,"prev_content":"mine",
			"unsigned":` + unsigned + `"prev_content":{"topic":"before"},"prev_sender":"@b:x"}}`},
		"what it replaced is unreadable": {previous: stored("10", `[`), want: `{` + asClient + `,"user_id":"@a:x","age":600,"replaces_state":"$old","prev_content":{"topic":"told"},
			"unsigned":` + unsigned + `"prev_content":{"topic":"told"},"prev_sender":"@told:x"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := Format{Raw: test.raw}.requireWritten(t, stored("10", wholeEvent), test.previous)
			require.Equal(t, requireValues(t, test.want), requireValues(t, got))
		})
	}
}

// What only this server may say does not come from an event's JSON, in which another
// server may have written it.
func TestForgedUnsigned(t *testing.T) {
	t.Parallel()
	const forged = `"age":1,"redacted_by":"$x","redacted_because":{"content":{}},"transaction_id":"t","delay_id":"d","membership":"join",
		"m.relations":{"m.thread":{"count":99}},"io.element.synapse.soft_failed":true,"invite_room_state":[],"knock_room_state":[],"foo":1`
	for _, raw := range []bool{false, true} {
		for unsigned, want := range map[string]event{
			forged: {},
			forged + `,"age_ts":400,"replaces_state":"$old","prev_content":{"a":1},"prev_sender":"@b:x"`: {
				"age": 600.0, "replaces_state": "$old", "prev_content": event{"a": 1.0}, "prev_sender": "@b:x",
			},
			forged + `,"age_ts":{},"replaces_state":{},"prev_sender":[]`: {},
		} {
			text := `{"type":"t","sender":"@a:x","content":{},"unsigned":{` + unsigned + `}}`
			got := requireDecoded(t, []byte(Format{Raw: raw}.requireWritten(t, stored("10", text), nil)))
			require.Equal(t, want, got["unsigned"])
			require.NotContains(t, got, "redacted_because")

			redacted := stored("10", text)
			redacted.RedactedBy = new("$r")
			redacted.Redaction = json.RawMessage(text)
			got = requireDecoded(t, []byte(Format{Raw: raw}.requireWritten(t, redacted, nil)))
			require.Equal(t, "$r", got["unsigned"].(event)["redacted_by"])
			require.NotContains(t, got["unsigned"], "prev_content")
			require.Equal(t, want, got["unsigned"].(event)["redacted_because"].(event)["unsigned"])
		}
	}
}

// requireValues reads an object. The values of its keys keep their spelling, except
// unsigned.
func requireValues(t *testing.T, text string) map[string]any {
	t.Helper()
	var read map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(text), &read), text)
	found := map[string]any{}
	for key, value := range read {
		found[key] = string(value)
	}
	var unsigned map[string]any
	require.NoError(t, json.Unmarshal(read["unsigned"], &unsigned))
	found["unsigned"] = unsigned
	return found
}

func TestRedactedForms(t *testing.T) {
	t.Parallel()
	const text = `{"type":"m.room.member","state_key":"@a:x","sender":"@a:x","membership":"join","origin_server_ts":1,"extra":1,"prev_state":[],"depth":3,
		"content":{"membership":"join","displayname":"a"},"unsigned":{"age_ts":1,"replaces_state":"$p","odd":1}}`
	previous := stored("10", `{"type":"m.room.member","sender":"@b:x","content":{"membership":"invite","displayname":"b"}}`)
	redacted := func(version string) *timeline.Event {
		event := stored(version, text)
		event.RedactedBy = new("$r")
		event.Redaction = json.RawMessage(`{"type":"m.room.redaction","sender":"@m:x","redacts":"$e","depth":9,"content":{"reason":"x"},"unsigned":{"age_ts":1}}`)
		event.RedactionMetadata = json.RawMessage(`{"txn_id":"t","device_id":"D"}`)
		return event
	}
	reader := Reader{UserID: "@m:x", DeviceID: "D"}
	got := requireDecoded(t, []byte(Format{Reader: reader}.requireWritten(t, redacted("10"), previous)))
	because := event{
		"type": "m.room.redaction", "sender": "@m:x", "user_id": "@m:x", "redacts": "$e", "room_id": "!r:x", "event_id": "$r", "age": 999.0,
		"content": event{"reason": "x", "redacts": "$e"}, "unsigned": event{"age": 999.0, "transaction_id": "t"},
	}
	require.Equal(t, event{
		"type": "m.room.member", "state_key": "@a:x", "sender": "@a:x", "user_id": "@a:x", "membership": "join", "origin_server_ts": 1.0,
		"room_id": "!r:x", "event_id": "$e", "content": event{"membership": "join"}, "age": 999.0, "replaces_state": "$p",
		"prev_content": event{"membership": "invite", "displayname": "b"}, "redacted_because": because,
		"unsigned": event{
			"age": 999.0, "replaces_state": "$p", "prev_content": event{"membership": "invite", "displayname": "b"}, "prev_sender": "@b:x",
			"redacted_by": "$r", "redacted_because": because,
		},
	}, got)

	raw := requireDecoded(t, []byte(Format{Reader: reader, Raw: true}.requireWritten(t, redacted("10"), previous)))
	require.Equal(t, 3.0, raw["depth"])
	require.Equal(t, []any{}, raw["prev_state"])
	require.NotContains(t, raw, "redacted_because")
	require.NotContains(t, raw, "user_id")
	require.Equal(t, 9.0, raw["unsigned"].(event)["redacted_because"].(event)["depth"])

	since := requireDecoded(t, []byte(Format{Raw: true}.requireWritten(t, redacted("11"), previous)))
	require.NotContains(t, since, "membership")
	require.NotContains(t, since, "prev_state")

	// The redaction may be gone, or be nothing.
	for _, redaction := range []json.RawMessage{nil, json.RawMessage(`[`), json.RawMessage(`null`)} {
		gone := redacted("10")
		gone.Redaction = redaction
		got := requireDecoded(t, []byte(Format{}.requireWritten(t, gone, nil)))
		require.NotContains(t, got, "redacted_because")
		require.Equal(t, event{"age": 999.0, "replaces_state": "$p", "redacted_by": "$r"}, got["unsigned"])
	}

	// An erased user's event says nothing of a redaction, nor what was before.
	erased, _ := new(scratch).readShown(&Format{}, []shown{{Event: *stored("10", text), membership: "leave", erased: true}})
	format := Format{Room: "!r:x", Now: time.UnixMilli(1000)}
	page, _ := format.page(erased, &bundles{Bundles: timeline.Bundles{Replaced: map[string]timeline.Event{"$p": *previous}}}, 0, bounds{})
	require.Equal(t, event{
		"type": "m.room.member", "state_key": "@a:x", "sender": "@a:x", "user_id": "@a:x", "membership": "join", "origin_server_ts": 1.0,
		"room_id": "!r:x", "event_id": "$e", "content": event{"membership": "join"}, "age": 999.0, "replaces_state": "$p",
		"unsigned": event{"age": 999.0, "replaces_state": "$p", "membership": "leave"},
	}, requireDecoded(t, page[0]))
}

// A redaction says in both places what it redacts, in every version.
func TestRedactionTargets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ version, text, content, beside string }{
		{"1", `"redacts":"$old","content":{"redacts":"$new","reason":"r"}`, `{"redacts":"$old","reason":"r"}`, `"$old"`},
		{"10", `"redacts":"$old","content":{}`, `{"redacts":"$old"}`, `"$old"`},
		{"10", `"content":{"redacts":"$new"}`, `{"redacts":"$new"}`, ``},
		{"11", `"redacts":"$old","content":{"redacts":"$new"}`, `{"redacts":"$new"}`, `"$new"`},
		{"12", `"content":{"a":1,"redacts":{}}`, `{"redacts":{},"a":1}`, `{}`},
		{"12", `"redacts":"$old","content":{}`, `{}`, `"$old"`},
		{"", `"content":{"redacts":"$new"}`, `{"redacts":"$new"}`, `"$new"`},
		{"10", `"redacts":"$old","content":[]`, `[]`, `"$old"`},
		{"10", `"redacts":"$old"`, ``, `"$old"`},
	} {
		for _, raw := range []bool{false, true} {
			for _, kind := range []string{`m.room.redaction`, `m.room.redactio\u006e`} {
				got := requireValues(t, Format{Raw: raw}.requireWritten(t, stored(test.version, `{"type":"`+kind+`",`+test.text+`}`), nil))
				for key, want := range map[string]string{"content": test.content, "redacts": test.beside} {
					if want == "" {
						require.NotContains(t, got, key)
					} else {
						require.Equal(t, want, got[key])
					}
				}
			}
		}
	}
	plain := requireValues(t, Format{}.requireWritten(t, stored("10", `{"type":"m.room.message","redacts":"$x","content":{}}`), nil))
	require.Equal(t, `{}`, plain["content"])
}

// Who sent an event gets to know by which request; a server admin, why others do
// not see it.
func TestWhoIsToldWhat(t *testing.T) {
	t.Parallel()
	type told = map[string]any
	me := Reader{UserID: "@a:x", DeviceID: "D", TokenID: 7}
	for name, test := range map[string]struct {
		metadata string
		reader   Reader
		want     told
	}{
		"my device":                  {`{"txn_id":"t","device_id":"D","delay_id":"d"}`, me, told{"transaction_id": "t", "delay_id": "d"}},
		"another device of mine":     {`{"txn_id":"t","device_id":"E","token_id":7,"delay_id":"d"}`, me, told{"delay_id": "d"}},
		"somebody else's":            {`{"txn_id":"t","device_id":"D","delay_id":"d"}`, Reader{UserID: "@b:x", DeviceID: "D"}, told{}},
		"nobody's":                   {`{"txn_id":"t"}`, Reader{}, told{}},
		"a reader without device":    {`{"txn_id":"t","device_id":""}`, Reader{UserID: "@a:x"}, told{}},
		"my token":                   {`{"txn_id":"t","token_id":7}`, me, told{"transaction_id": "t"}},
		"my token, null device":      {`{"txn_id":"t","token_id":7,"device_id":null}`, me, told{"transaction_id": "t"}},
		"another token":              {`{"txn_id":"t","token_id":8}`, me, told{}},
		"no token known":             {`{"txn_id":"t","token_id":0}`, Reader{UserID: "@a:x"}, told{}},
		"no token stored":            {`{"txn_id":"t"}`, me, told{}},
		"a guest":                    {`{"txn_id":"t"}`, Reader{UserID: "@a:x", Guest: true}, told{"transaction_id": "t"}},
		"an app service":             {`{"txn_id":"t"}`, Reader{UserID: "@a:x", AppService: true}, told{"transaction_id": "t"}},
		"a guest's other device":     {`{"txn_id":"t","device_id":"E"}`, Reader{UserID: "@a:x", Guest: true}, told{}},
		"no text":                    {`{"txn_id":{"a":1},"device_id":"D","delay_id":[]}`, me, told{}},
		"no JSON":                    {`{"txn_id":"t","device_id":"D"`, me, told{}},
		"no object":                  {`["txn_id"]`, me, told{}},
		"a reader and its flags":     {`{"soft_failed":true,"policy_server_spammy":true}`, me, told{}},
		"an admin and its flags":     {`{"soft_failed":true,"policy_server_spammy":true,"txn_id":"t"}`, Reader{UserID: "@x:x", Admin: true}, told{"io.element.synapse.soft_failed": true, "io.element.synapse.policy_server_spammy": true}},
		"an admin and what is not":   {`{"soft_failed":false,"policy_server_spammy":"true"}`, Reader{UserID: "@x:x", Admin: true}, told{}},
		"an admin's own soft-failed": {`{"soft_failed":true,"txn_id":"t","device_id":"D"}`, Reader{UserID: "@a:x", DeviceID: "D", Admin: true}, told{"transaction_id": "t", "io.element.synapse.soft_failed": true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			event := stored("10", `{"type":"t","sender":"@a:x","content":{}}`)
			event.InternalMetadata = json.RawMessage(test.metadata)
			for _, raw := range []bool{false, true} {
				got := requireDecoded(t, []byte(Format{Reader: test.reader, Raw: raw}.requireWritten(t, event, nil)))
				require.Equal(t, test.want, got["unsigned"])
			}
		})
	}
}

// What a database holds may be anything.
func TestHostileFields(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `null`, `[]`, `7`, `{`, `{"a":1`, "{\"a\":\"\xff\"}", `{"a":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`, `{"a":1}{}`, "{\"a\":\"\x00\"}",
	} {
		_, ok := Format{}.Append(nil, stored("10", text), nil)
		require.False(t, ok, text)
		require.Empty(t, ReplacedState(stored("10", text)))
		require.Nil(t, Content(stored("10", text)))
	}
	for _, value := range []string{
		`null`, `1e400`, `-1`, `""`, `"\u0000\ud800"`, `[]`, `{}`, `{"a":1,"a":2}`, `true`, strings.Repeat(`[`, 900) + strings.Repeat(`]`, 900),
		`{"redacts":{},"m.relates_to":{"rel_type":7,"event_id":"$x"},"third_party_invite":{"signed":[]}}`, `"m.room.redaction"`, `"m.room.member"`,
		`{"age_ts":` + fmt.Sprint(math.MinInt64) + `,"replaces_state":"\u0000","age":{},"prev_content":7,"m.relations":[],"membership":1,"transaction_id":{}}`,
	} {
		for _, key := range []string{"type", "state_key", "sender", "content", "unsigned", "redacts", "event_id", "room_id", "user_id", "age", "origin_server_ts", `\u0000`, ``} {
			text := `{"type":"t","content":{},"` + key + `":` + value + `}`
			for _, version := range []string{"1", "10", "12"} {
				for _, redactedBy := range []*string{nil, new("$\"\xff")} {
					event := stored(version, text)
					event.RedactedBy, event.Redaction, event.ID = redactedBy, json.RawMessage(text), "$\x00\"\\é"
					for _, raw := range []bool{false, true} {
						requireReadable(t, Format{Raw: raw}.requireWritten(t, event, stored(version, text)))
					}
				}
			}
		}
	}
	require.JSONEq(t, `{"event_id":"$e","room_id":"!r:x","unsigned":{},"a":2}`, Format{}.requireWritten(t, stored("10", `{"a":1,"a":2,"unsigned":[]}`), nil))
}

// requireReadable holds that a text is JSON, an object, and has no key twice but in
// what was passed on.
func requireReadable(t *testing.T, text string) {
	t.Helper()
	require.True(t, json.Valid([]byte(text)), text)
	for _, object := range []string{text, string(requireObject(t, text)["unsigned"])} {
		decoder := json.NewDecoder(strings.NewReader(object))
		begin, err := decoder.Token()
		require.NoError(t, err)
		require.Equal(t, json.Delim('{'), begin)
		seen := map[string]bool{}
		for decoder.More() {
			key, err := decoder.Token()
			require.NoError(t, err)
			require.False(t, seen[key.(string)], "%s twice in %s", key, object)
			seen[key.(string)] = true
			var value json.RawMessage
			require.NoError(t, decoder.Decode(&value))
		}
	}
}

func requireObject(t *testing.T, text string) (read map[string]json.RawMessage) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &read), text)
	return read
}

// FuzzClientEvent holds that whatever lies in the database for an event, what it
// replaced and what redacts it, becomes JSON without what is not for clients.
func FuzzClientEvent(f *testing.F) {
	for _, event := range []string{
		wholeEvent, `{"type":"m.room.member","state_key":"@a:x","content":{"membership":"join"},"unsigned":{"replaces_state":"$p","age_ts":1}}`,
		`{"type":"m.room.redaction","redacts":"$e","content":{}}`, `{"content":[],"unsigned":{"age_ts":1e999}}`, `{"unsigned":[]}`,
		`null`, `[`, ``, `{"a":1,"a":2}`, `{"type":"m.room.create","content":null}`, "{\"type\":\"\xff\"}", `{"sender":"@a:x"}`,
	} {
		f.Add([]byte(event), []byte(`{"content":{},"sender":{}}`), []byte(`{"type":"m.room.redaction"}`), []byte(`{"txn_id":"t","device_id":"D","soft_failed":true}`), "10")
		f.Add([]byte(`{"state_key":null,"unsigned":{"replaces_state":"$p"}}`), []byte(event), []byte(event), []byte(event), "12")
	}
	f.Fuzz(func(t *testing.T, text, previous, redaction, metadata []byte, version string) {
		for _, redactedBy := range []*string{nil, new("$r")} {
			for _, raw := range []bool{false, true} {
				format := Format{Room: "!r:x", Reader: Reader{UserID: "@a:x", DeviceID: "D", Admin: true}, Raw: raw, Now: time.Now()}
				written, ok := format.Append(nil, &timeline.Event{
					ID: "$e", JSON: text, InternalMetadata: metadata, RoomVersion: &version,
					RedactedBy: redactedBy, Redaction: redaction, RedactionMetadata: metadata,
				}, &timeline.Event{ID: "$p", JSON: previous, RoomVersion: &version})
				if !ok {
					require.Empty(t, written)
					continue
				}
				requireReadable(t, string(written))
				read := requireObject(t, string(written)) // a struct would match keys in any letter case
				require.Equal(t, `"$e"`, string(read["event_id"]))
				require.Equal(t, `"!r:x"`, string(read["room_id"]))
				if !raw {
					require.NotContains(t, read, "signatures")
				}
			}
		}
	})
}

// ordinaryEvent is a message of about 1 kB.
var ordinaryEvent = `{"signatures":{"lab.test":{"ed25519:a_XLZw":"eNdj8wTFfdhg1+zKwezixx8KYoa6UnigzxJcaNKYSFlu4cXO5xLPphHPelPsH6UlohI/GckA2CcGUeZKHlsgAA"}},
"unsigned":{"age_ts":1795399143938},"room_id":"!ZBwmLItxALiLswfyso:lab.test","auth_events":["$LIr0xrIVSZtAQ5iFicoYEqZfoVZ6ta9xVWPc_AJq3Q0","$r39Amm1ZR99UyrbRgsmAp9FJuUR-UjYGf6lYrfVwQeU"],
"prev_events":["$eGl6_pu2-RQaM2XGYICuEp6SrqtKFTAH2v_pOUkzxLY"],"content":{"body":"` + strings.Repeat("lorem ipsum ", 30) + `","msgtype":"m.text"},
"depth":17,"hashes":{"sha256":"RbZIeKmcBC9Z/XBPtIwbW2dJves1CCCdJhwwESKnpuc"},"origin_server_ts":1795399143938,"sender":"@bob:lab.test","type":"m.room.message"}`

// BenchmarkPage is the pure part of a page of 100 messages.
func BenchmarkPage(b *testing.B) {
	version := "10"
	events := make([]shown, 100)
	for i := range events {
		events[i] = shown{membership: "join", Event: timeline.Event{
			ID: "$ZZwmLItxALiLswfyso", JSON: json.RawMessage(ordinaryEvent), InternalMetadata: json.RawMessage(`{"txn_id":"m1","device_id":"D"}`), RoomVersion: &version,
		}}
	}
	format := Format{Room: "!ZBwmLItxALiLswfyso:lab.test", Reader: Reader{UserID: "@bob:lab.test", DeviceID: "D"}, Now: time.Now()}
	b.SetBytes(int64(100 * len(ordinaryEvent)))
	b.ReportAllocs()
	var memory scratch
	for b.Loop() {
		readable, size := memory.readShown(&format, events)
		for i := range readable {
			if readable[i].relation() == closedRelation {
				b.Fatal("it has no relation")
			}
		}
		if page, _ := format.page(readable, &bundles{}, size, bounds{}); len(page) != 100 {
			b.Fatal(len(page))
		}
	}
}
