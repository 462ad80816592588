package matrix

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// wholeEvent has every key that some redaction keeps, and some that none does.
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
	for _, version := range []RoomVersion{"", "1", "8", "13", "09", "org.matrix.msc3757.11", "\x00"} {
		require.False(t, version.Supported())
		_, err := Redact(version, wholeEvent("t", "{}"))
		require.ErrorIs(t, err, ErrRoomVersion)
		_, err = EventID(version, wholeEvent("t", "{}"))
		require.ErrorIs(t, err, ErrRoomVersion)
		_, err = Event{Type: "t", RoomID: "!r:b", Sender: "@a:b"}.Seal(version, "b", nil)
		require.ErrorIs(t, err, ErrRoomVersion)
		_, err = ParsePowerLevels(version, nil, nil)
		require.ErrorIs(t, err, ErrRoomVersion)
	}
}

// FuzzRedact: a redaction removes nothing twice, adds nothing, and changes
// neither the event's id nor whether it has one.
func FuzzRedact(f *testing.F) {
	for _, kind := range []string{"m.room.member", "m.room.create", "m.room.power_levels", "m.room.redaction", "t"} {
		f.Add(wholeEvent(kind, `{"membership":"join","third_party_invite":{"signed":1},"creator":"c","users":{},"invite":1,"redacts":"$r"}`))
	}
	f.Add([]byte(`{"type":"m.room.member","content":{"membership":1.5}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, version := range []RoomVersion{"9", "10", "11", "12"} {
			redacted, err := Redact(version, raw)
			id, idErr := EventID(version, raw)
			if idErr != nil {
				// What keeps an event from having an id is never redacted, but
				// for the signatures, which the id does not cover.
				require.Error(t, err)
				continue
			}
			require.Regexp(t, `^\$[A-Za-z0-9_-]{43}$`, id)
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
