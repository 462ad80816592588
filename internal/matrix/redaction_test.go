package matrix

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// wholeEvent has every key that a version's redaction keeps, and some other keys.
func wholeEvent(kind, content string) []byte {
	return fmt.Appendf(nil, `{"age_ts":1,"auth_events":[],"content":%s,"depth":1,"event_id":"$e","hashes":{},"membership":"join","origin":"o","origin_server_ts":2,`+
		`"prev_events":[],"prev_state":[],"redacts":"$x","room_id":"!r","sender":"@s:o","signatures":{},"state_key":"","type":%q,"unsigned":{"half":0.5},"z":1}`,
		content, kind)
}

func redactedEvent(kind, content string, old bool) string {
	membership, prevState := "", ""
	if old {
		membership, prevState = `"membership":"join","origin":"o",`, `"prev_state":[],`
	}
	return fmt.Sprintf(`{"auth_events":[],"content":%s,"depth":1,"event_id":"$e","hashes":{},%s"origin_server_ts":2,"prev_events":[],%s`+
		`"room_id":"!r","sender":"@s:o","signatures":{},"state_key":"","type":%q}`, content, membership, prevState, kind)
}

func TestRedact(t *testing.T) {
	t.Parallel()
	const levels = `"ban":1,"events":{"x":1},"events_default":2,"kick":4,"redact":5,"state_default":6,"users":{"@s:o":7},"users_default":8`
	for _, event := range []struct{ kind, content, old, new string }{
		{"m.room.message", `{"body":"b","membership":"join"}`, `{}`, `{}`},
		{"m.room.topic", `{"topic":"t"}`, `{}`, `{}`},
		{"m.room.aliases", `{"aliases":["#a:o"]}`, `{}`, `{}`},
		{"m.room.create", `{"creator":"@s:o","room_version":"9","x":1}`, `{"creator":"@s:o"}`, `{"creator":"@s:o","room_version":"9","x":1}`},
		{"m.room.join_rules", `{"allow":[],"join_rule":"restricted","x":1}`, `{"allow":[],"join_rule":"restricted"}`, `{"allow":[],"join_rule":"restricted"}`},
		{"m.room.history_visibility", `{"history_visibility":"shared","x":1}`, `{"history_visibility":"shared"}`, `{"history_visibility":"shared"}`},
		{
			"m.room.power_levels", strings.TrimSuffix("{"+levels, "}") + `,"invite":3,"historical":100,"notifications":{"room":50}}`,
			"{" + levels + "}", "{" + strings.Replace(levels, `"kick"`, `"invite":3,"kick"`, 1) + "}",
		},
		{"m.room.redaction", `{"reason":"r","redacts":"$x"}`, `{}`, `{"redacts":"$x"}`},
		{
			"m.room.member", `{"displayname":"d","join_authorised_via_users_server":"@u:o","membership":"invite","third_party_invite":{"display_name":"x","signed":{"token":"t"}}}`,
			`{"join_authorised_via_users_server":"@u:o","membership":"invite"}`,
			`{"join_authorised_via_users_server":"@u:o","membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`,
		},
		{"m.room.member", `{"membership":1,"third_party_invite":{"x":1}}`, `{"membership":1}`, `{"membership":1,"third_party_invite":{}}`},
		{"m.room.member", `{"third_party_invite":"x"}`, `{}`, `{}`},
	} {
		for _, version := range []RoomVersion{"9", "10", "11", "12"} {
			old, content := true, event.old
			if version == "11" || version == "12" {
				old, content = false, event.new
			}
			got, err := Redact(version, wholeEvent(event.kind, event.content))
			require.NoError(t, err)
			require.Equal(t, redactedEvent(event.kind, content, old), string(got), "version %s", version)
			again, err := Redact(version, got)
			require.NoError(t, err)
			require.Equal(t, string(got), string(again))
		}
	}
}

func TestRedactRefuses(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "null", "[]", "1", "{}", `{"type":"t"}`, `{"content":{}}`, `{"type":1,"content":{}}`, `{"type":"t","content":[]}`, `{"type":"t","content":null}`} {
		_, err := Redact("11", []byte(raw))
		require.Error(t, err, raw)
		_, err = EventID("11", []byte(raw))
		require.Error(t, err, raw)
	}
	for _, version := range []RoomVersion{"", "0", "13", "09", "8 ", "org.matrix.msc3757.11", "\x00"} {
		require.False(t, version.Supported())
		_, err := Redact(version, wholeEvent("t", "{}"))
		require.ErrorIs(t, err, ErrRoomVersion)
		_, err = EventID(version, wholeEvent("t", "{}"))
		require.ErrorIs(t, err, ErrRoomVersion)
		_, err = Event{Type: "t", RoomID: "!r:b", Sender: "@a:b"}.Seal(version, "b", nil)
		require.ErrorIs(t, err, ErrRoomVersion)
	}
}

// FuzzRedact checks that a second redaction changes nothing, that a redaction adds
// nothing, and that it does not change the event's id or make it invalid.
func FuzzRedact(f *testing.F) {
	for _, kind := range []string{"m.room.member", "m.room.create", "m.room.power_levels", "m.room.redaction", "t"} {
		f.Add(wholeEvent(kind, `{"membership":"join","third_party_invite":{"signed":1},"creator":"c","users":{},"invite":1,"redacts":"$r"}`))
	}
	f.Add([]byte(`{"type":"m.room.member","content":{"membership":1.5}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, version := range allVersions[2:] {
			redacted, err := Redact(version, raw)
			id, idErr := EventID(version, raw)
			if idErr != nil {
				// A redaction never removes what makes an id invalid, except the
				// signatures, which the id does not cover.
				require.Error(t, err)
				continue
			}
			require.Regexp(t, `^\$[A-Za-z0-9_/+-]{43}$`, id)
			if err != nil { // for its signatures
				require.ErrorIs(t, err, ErrJSON)
				continue
			}
			again, err := Redact(version, redacted)
			require.NoError(t, err)
			require.Equal(t, string(redacted), string(again))
			sameID, err := EventID(version, redacted)
			require.NoError(t, err)
			require.Equal(t, id, sameID)
		}
	})
}

// AppendRedactedContent keeps the same content as Redact. Older versions have other rules.
func TestAppendRedactedContent(t *testing.T) {
	t.Parallel()
	const content = `{ "a":1,"aliases":[1] ,"allow":[2],"ban":3,"creator":4,"history_visibility":6,"invite":7,"join_rule":8,` +
		`"join_authorised_via_users_server":9,"member\u0073hip":1e400,"redacts":"$11","third_party_invite":{"signed":12,"b":13}}`
	for _, test := range []struct{ versions, kind, want string }{
		{"1 2 3 4 5", "m.room.aliases", `{"aliases":[1]}`},
		{"6 7 8 9 10 11 12", "m.room.aliases", `{}`},
		{"1 2 6 7", "m.room.join_rules", `{"join_rule":8}`},
		{"8 9 10 11 12", "m.room.join_rules", `{"allow":[2],"join_rule":8}`},
		{"1 6 8", "m.room.member", `{"member\u0073hip":1e400}`},
		{"9 10", "m.room.member", `{"join_authorised_via_users_server":9,"member\u0073hip":1e400}`},
		{"11 12 13 0 -1 x", "m.room.member", `{"join_authorised_via_users_server":9,"member\u0073hip":1e400,"third_party_invite":{"signed":12}}`},
		{"1 9 10", "m.room.power_levels", `{"ban":3}`},
		{"11 12", "m.room.power_levels", `{"ban":3,"invite":7}`},
		{"1 9 10", "m.room.redaction", `{}`},
		{"11 12", "m.room.redaction", `{"redacts":"$11"}`},
		{"1 9 10", "m.room.create", `{"creator":4}`},
		{"11 12", "m.room.create", content},
		{"1 10 12", "m.room.history_visibility", `{"history_visibility":6}`},
		{"1 10 12", "m.room.name", `{}`},
	} {
		for version := range strings.FieldsSeq(test.versions) {
			require.Equal(t, test.want, string(AppendRedactedContent(nil, RoomVersion(version), test.kind, []byte(content))), "%s %s", version, test.kind)
		}
	}
	for _, content := range []string{``, `null`, `[]`, `"`, `{"creator":1`, "{\"creator\":\"\xff\"}"} {
		require.Equal(t, `x{}`, string(AppendRedactedContent([]byte("x"), "12", "m.room.create", []byte(content))))
	}
	require.Equal(t, `{"third_party_invite":{}}`, string(AppendRedactedContent(nil, "11", "m.room.member", []byte(`{"third_party_invite":{"x":1}}`))))
	require.Equal(t, `{}`, string(AppendRedactedContent(nil, "11", "m.room.member", []byte(`{"third_party_invite":"x"}`))))
}

func TestRedactionKeeps(t *testing.T) {
	t.Parallel()
	for key, want := range map[string][2]bool{
		"type": {true, true}, "signatures": {true, true}, "prev_state": {true, false}, "origin": {true, false},
		"membership": {true, false}, "unsigned": {false, false}, "redacts": {false, false}, "": {false, false},
	} {
		for _, version := range []RoomVersion{"1", "6", "10"} {
			require.Equal(t, want[0], RedactionKeeps(version, []byte(key)), key)
		}
		for _, version := range []RoomVersion{"11", "12", "", "13", "org.example.mine"} {
			require.Equal(t, want[1], RedactionKeeps(version, []byte(key)), key)
		}
	}
}

// FuzzAppendRedactedContent checks that AppendRedactedContent and Redact agree.
func FuzzAppendRedactedContent(f *testing.F) {
	for _, kind := range []string{"m.room.member", "m.room.create", "m.room.power_levels", "m.room.redaction", "m.room.join_rules", "m.room.aliases", "t"} {
		f.Add(kind, []byte(`{"membership":"join","third_party_invite":{"signed":1,"x":2},"creator":"c","users":{},"invite":1,"redacts":"$r","allow":[],"aliases":[]}`))
	}
	f.Fuzz(func(t *testing.T, kind string, content []byte) {
		parsed, err := parseObject(content)
		for _, version := range allVersions {
			left := AppendRedactedContent(nil, version, kind, content)
			require.True(t, json.Valid(left), "%q", left)
			again := AppendRedactedContent(nil, version, kind, left)
			require.Equal(t, string(left), string(again))
			if err != nil {
				continue
			}
			got, err := parseObject(left)
			require.NoError(t, err)
			require.Equal(t, redactedContent(version, kind, parsed), got)
		}
	})
}
