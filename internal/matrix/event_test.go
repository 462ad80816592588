package matrix

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// minimalEvent and messageEvent are from the Matrix specification's appendix,
// with the hashes and signatures that it gives them.
const (
	minimalEvent = `{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain",
		"origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{
		"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X","unsigned":{"age_ts":1000000}}`
	messageEvent = `{"content":{"body":"Here is the message content"},"event_id":"$0:domain","hashes":{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"},
		"origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{"domain":{
		"ed25519:1":"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"}},"unsigned":{"age_ts":1000000}}`
)

func TestEventsOfTheSpecification(t *testing.T) {
	t.Parallel()
	key := specKey(t)
	for raw, want := range map[string]string{
		minimalEvent: "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
		messageEvent: "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
	} {
		hash, err := ContentHash("10", []byte(raw))
		require.NoError(t, err)
		require.Equal(t, want, hash)
		// Their key origin is signed, so they are events of the old redactions.
		require.NoError(t, VerifySignature("10", []byte(raw), "domain", "ed25519:1", key.Public()))
		require.ErrorIs(t, VerifySignature("11", []byte(raw), "domain", "ed25519:1", key.Public()), ErrSignature)

		event, err := parseEvent("9", []byte(raw))
		require.NoError(t, err)
		signature, err := event.sign("9", key)
		require.NoError(t, err)
		require.Equal(t, event["signatures"].(map[string]any)["domain"].(map[string]any)["ed25519:1"], signature)
	}
}

// TestEventOfAHomeserver checks that a create event of room version 12 has the same id,
// and so the same room id, as on a real homeserver.
func TestEventOfAHomeserver(t *testing.T) {
	t.Parallel()
	raw := []byte(`{"auth_events":[],"prev_events":[],"type":"m.room.create","sender":"@carol:lab.test","content":{"room_version":"12"},"depth":1,
		"origin_server_ts":1795399134544,"state_key":"","hashes":{"sha256":"KZEn+oviLbrFN0arj0MsKUI3GoQV3zNskQ4MqFzjoDQ"},"unsigned":{"age_ts":1795399134544}}`)
	id, err := EventID("12", raw)
	require.NoError(t, err)
	require.Equal(t, "$jYKpvDx92ssSdEiqXwywLvrm7zyNB2KW7pJf7Ukz-bI", id)
	sealed, err := Event{
		Type: "m.room.create", Sender: "@carol:lab.test", StateKey: new(""), Content: map[string]any{"room_version": "12"}, Depth: 1,
		OriginServerTS: 1795399134544,
	}.Seal("12", "lab.test", nil)
	require.NoError(t, err)
	require.Equal(t, id, sealed.ID)
	require.Equal(t, "!"+id[1:], sealed.RoomID)
	require.Equal(t, `{"auth_events":[],"content":{"room_version":"12"},"depth":1,"hashes":{"sha256":"KZEn+oviLbrFN0arj0MsKUI3GoQV3zNskQ4MqFzjoDQ"},`+
		`"origin_server_ts":1795399134544,"prev_events":[],"sender":"@carol:lab.test","signatures":{},"state_key":"","type":"m.room.create"}`, string(sealed.JSON))
}

// allVersions are the supported room versions in order.
var allVersions = []RoomVersion{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}

func message() Event {
	return Event{
		Type: "m.room.message", RoomID: "!r:domain", Sender: "@u:domain", Content: map[string]any{"body": "<b> & \u2028", "n": 1},
		Depth: 7, PrevEvents: []string{"$p"}, AuthEvents: []string{"$a", "$b"}, OriginServerTS: 1000,
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	key := specKey(t)
	ids := map[string]bool{}
	for _, version := range allVersions {
		signed, err := message().Seal(version, "domain", key)
		require.NoError(t, err)
		require.Equal(t, message(), signed.Event, "Seal must not change the event")
		canonical, err := CanonicalJSON(signed.JSON)
		require.NoError(t, err)
		require.Equal(t, string(canonical), string(signed.JSON))
		id, err := EventID(version, signed.JSON)
		require.NoError(t, err)
		require.Equal(t, id, signed.ID)
		require.NoError(t, VerifySignature(version, signed.JSON, "domain", "ed25519:1", key.Public()))
		again, err := message().Seal(version, "domain", key)
		require.NoError(t, err)
		require.Equal(t, signed, again)

		unsigned, err := message().Seal(version, "domain", nil)
		require.NoError(t, err)
		require.Equal(t, signed.ID, unsigned.ID, "the id does not cover signatures")
		require.ErrorIs(t, VerifySignature(version, unsigned.JSON, "domain", "ed25519:1", key.Public()), ErrSignature)
		ids[signed.ID] = true
	}
	// Without redactable keys the versions with the same form of ids agree.
	require.Equal(t, map[string]bool{
		"$UMTlAmqQAo-PSLg0:domain": true, "$1oDnYOTVX04XUi5FZNox5/VZM99Nkt5ZhdWDPEv2UHs": true,
		"$1oDnYOTVX04XUi5FZNox5_VZM99Nkt5ZhdWDPEv2UHs": true,
	}, ids)

	// The id depends on every field of the event.
	for name, change := range map[string]func(*Event){
		"type": func(e *Event) { e.Type = "x" }, "room": func(e *Event) { e.RoomID = "!x:domain" }, "sender": func(e *Event) { e.Sender = "@x:domain" },
		"state key": func(e *Event) { e.StateKey = new("") }, "content": func(e *Event) { e.Content = nil }, "depth": func(e *Event) { e.Depth++ },
		"previous": func(e *Event) { e.PrevEvents = nil }, "auth": func(e *Event) { e.AuthEvents = e.AuthEvents[:1] }, "time": func(e *Event) { e.OriginServerTS++ },
	} {
		event := message()
		change(&event)
		sealed, err := event.Seal("11", "domain", key)
		require.NoError(t, err, name)
		require.False(t, ids[sealed.ID], name)
		ids[sealed.ID] = true
	}
}

func TestSealRefuses(t *testing.T) {
	t.Parallel()
	create := func() Event {
		return Event{Type: "m.room.create", Sender: "@u:domain", StateKey: new(""), Content: map[string]any{"room_version": "12"}}
	}
	_, err := create().Seal("12", "domain", nil)
	require.NoError(t, err)
	for name, refused := range map[string]struct {
		of     func() Event
		change func(*Event)
		is     error
	}{
		"no type":          {message, func(e *Event) { e.Type = "" }, nil},
		"no room":          {message, func(e *Event) { e.RoomID = "" }, nil},
		"no room id":       {message, func(e *Event) { e.RoomID = "r:domain" }, nil},
		"no user":          {message, func(e *Event) { e.Sender = "u:domain" }, nil},
		"another's user":   {message, func(e *Event) { e.Sender = "@u:far.test" }, nil},
		"depth":            {message, func(e *Event) { e.Depth = -1 }, nil},
		"depth too large":  {message, func(e *Event) { e.Depth = math.MaxInt64 }, ErrJSON},
		"time too large":   {message, func(e *Event) { e.OriginServerTS = math.MaxInt64 }, ErrJSON},
		"fraction":         {message, func(e *Event) { e.Content["n"] = 0.5 }, ErrJSON},
		"not UTF-8":        {message, func(e *Event) { e.Content["body"] = "\xff" }, ErrJSON},
		"sender not UTF-8": {message, func(e *Event) { e.Sender = "@\xff:domain" }, nil},
		"previous":         {message, func(e *Event) { e.PrevEvents = []string{"p"} }, nil},
		"auth":             {message, func(e *Event) { e.AuthEvents = []string{""} }, nil},
		"many previous":    {message, func(e *Event) { e.PrevEvents = make([]string, 21) }, ErrTooLarge},
		"many auth":        {message, func(e *Event) { e.AuthEvents = make([]string, 11) }, ErrTooLarge},
		"long type":        {message, func(e *Event) { e.Type = strings.Repeat("t", 256) }, ErrTooLarge},
		"long state key":   {message, func(e *Event) { e.StateKey = new(strings.Repeat("t", 256)) }, ErrTooLarge},
		"long":             {message, func(e *Event) { e.Content["body"] = strings.Repeat("t", 65536) }, ErrTooLarge},
		"names create":     {message, func(e *Event) { e.RoomID, e.AuthEvents = "!c", []string{"$p", "$c"} }, nil},
		"create after":     {create, func(e *Event) { e.PrevEvents = []string{"$p"} }, nil},
		"create by":        {create, func(e *Event) { e.AuthEvents = []string{"$p"} }, nil},
		"create in":        {create, func(e *Event) { e.RoomID = "!r:domain" }, nil},
		"create other":     {create, func(e *Event) { e.Content = map[string]any{"room_version": "11"} }, nil},
		"create any":       {create, func(e *Event) { e.Content = nil }, nil},
		"create not state": {create, func(e *Event) { e.StateKey = nil }, nil},
		"create state key": {create, func(e *Event) { e.StateKey = new("x") }, nil},
	} {
		event := refused.of()
		refused.change(&event)
		sealed, err := event.Seal("12", "domain", specKey(t))
		require.Error(t, err, name)
		if refused.is != nil {
			require.ErrorIs(t, err, refused.is, name)
		}
		require.Zero(t, sealed, name)
	}
	// Up to version 11 a create event has a room id.
	old := create()
	old.Content["room_version"] = "11"
	_, err = old.Seal("11", "domain", nil)
	require.Error(t, err)
	old.RoomID = "!r:domain"
	sealed, err := old.Seal("11", "domain", nil)
	require.NoError(t, err)
	require.Equal(t, "!r:domain", sealed.RoomID)

	// The largest accepted event has exactly 64 KiB.
	event := message()
	sealed, err = event.Seal("12", "domain", nil)
	require.NoError(t, err)
	event.Content["body"] = event.Content["body"].(string) + strings.Repeat("x", 65536-len(sealed.JSON))
	sealed, err = event.Seal("12", "domain", nil)
	require.NoError(t, err)
	require.Len(t, sealed.JSON, 65536)
	event.Content["body"] = event.Content["body"].(string) + "x"
	_, err = event.Seal("12", "domain", nil)
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestVerifySignatureRefuses(t *testing.T) {
	t.Parallel()
	key := specKey(t)
	sealed, err := message().Seal("11", "domain", key)
	require.NoError(t, err)
	verify := func(raw string) error { return VerifySignature("11", []byte(raw), "domain", "ed25519:1", key.Public()) }
	require.NoError(t, verify(string(sealed.JSON)))
	// The signature covers what a redaction removes only through the hash.
	require.NoError(t, verify(strings.Replace(string(sealed.JSON), `"n":1`, `"n":2`, 1)))
	for _, raw := range []string{
		strings.Replace(string(sealed.JSON), `"depth":7`, `"depth":8`, 1),
		strings.Replace(string(sealed.JSON), `"sha256":"`, `"sha256":"A`, 1),
		strings.Replace(string(sealed.JSON), `"ed25519:1":"`, `"ed25519:1":"A`, 1),
		strings.Replace(string(sealed.JSON), `"ed25519:1":"`, `"ed25519:1":"%`, 1),
		strings.Replace(string(sealed.JSON), `"signatures":{"domain"`, `"signatures":{"other"`, 1),
		`{"type":"t","content":{}}`, `{"type":"t","content":{},"signatures":[]}`, `{"type":"t","content":{},"signatures":{"domain":"x"}}`,
		`{"type":"t","content":{},"signatures":{"domain":{"ed25519:1":1}}}`, `{"type":"t","content":{},"signatures":{"domain":{"ed25519:1":""}}}`,
	} {
		require.ErrorIs(t, verify(raw), ErrSignature, raw)
	}
	require.ErrorIs(t, verify(strings.Replace(string(sealed.JSON), `"depth":7`, `"depth":7.5`, 1)), ErrJSON)
	for _, public := range [][]byte{nil, {1}, make([]byte, 33), make([]byte, 32)} {
		require.ErrorIs(t, VerifySignature("11", sealed.JSON, "domain", "ed25519:1", public), ErrSignature)
	}
	require.ErrorIs(t, VerifySignature("11", sealed.JSON, "domain", "ed25519:2", key.Public()), ErrSignature)
	require.ErrorIs(t, VerifySignature("13", sealed.JSON, "domain", "ed25519:1", key.Public()), ErrRoomVersion)
}

// FuzzEventID checks that an event's id does not depend on the spelling of its JSON or
// on unsigned, and that a sealed event has the same id and a valid signature.
func FuzzEventID(f *testing.F) {
	f.Add([]byte(minimalEvent), "t", "@u:domain", "body", int64(1))
	f.Add([]byte(`{"type":"m.room.create","content":{"room_version":"12"}}`), "m.room.member", "@:domain", "\u2028\x00", int64(-1))
	f.Add([]byte(`{}`), "", "@\xff:domain", "\xff", int64(math.MaxInt64))
	key := specKey(f)
	f.Fuzz(func(t *testing.T, raw []byte, kind, sender, body string, number int64) {
		for _, version := range []RoomVersion{"1", "3", "5", "6", "9", "11", "12"} {
			if id, err := EventID(version, raw); err == nil {
				var event map[string]json.RawMessage
				require.NoError(t, json.Unmarshal(raw, &event))
				event["unsigned"], event["signatures"] = json.RawMessage(`{"age":0.5}`), json.RawMessage(`1`)
				spelled, err := json.MarshalIndent(event, "", "\t")
				require.NoError(t, err)
				other, err := EventID(version, spelled)
				require.NoError(t, err)
				require.Equal(t, id, other)
			}
			event := message()
			event.Type, event.Sender, event.Content["body"], event.Content["n"] = kind, sender, body, number
			if sealed, err := event.Seal(version, "domain", key); err == nil {
				id, err := EventID(version, sealed.JSON)
				require.NoError(t, err)
				require.Equal(t, sealed.ID, id)
				require.NoError(t, VerifySignature(version, sealed.JSON, "domain", key.ID(), key.Public()))
			}
		}
	})
}
