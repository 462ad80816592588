package matrix

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAuthTypes(t *testing.T) {
	t.Parallel()
	create, levels, rules := StateKey{"m.room.create", ""}, StateKey{"m.room.power_levels", ""}, StateKey{"m.room.join_rules", ""}
	alice, bob, carol := StateKey{"m.room.member", "@alice:a"}, StateKey{"m.room.member", "@bob:b"}, StateKey{"m.room.member", "@carol:c"}
	member := func(target string, content map[string]any) Event {
		return Event{Type: "m.room.member", Sender: "@alice:a", StateKey: &target, Content: content}
	}
	signed := map[string]any{"signed": map[string]any{"token": "t"}}
	for name, c := range map[string]struct {
		event Event
		want  []StateKey // after create
	}{
		"message":       {Event{Type: "m.room.message", Sender: "@alice:a"}, []StateKey{levels, alice}},
		"name":          {Event{Type: "m.room.name", Sender: "@alice:a", StateKey: new("")}, []StateKey{levels, alice}},
		"leave":         {member("@alice:a", map[string]any{"membership": "leave"}), []StateKey{levels, alice}},
		"join":          {member("@alice:a", map[string]any{"membership": "join"}), []StateKey{levels, alice, rules}},
		"kick":          {member("@bob:b", map[string]any{"membership": "leave"}), []StateKey{levels, alice, bob}},
		"ban":           {member("@bob:b", map[string]any{"membership": "ban"}), []StateKey{levels, alice, bob}},
		"invite":        {member("@bob:b", map[string]any{"membership": "invite"}), []StateKey{levels, alice, bob, rules}},
		"knock":         {member("@alice:a", map[string]any{"membership": "knock"}), []StateKey{levels, alice, rules}},
		"restricted":    {member("@alice:a", map[string]any{"membership": "join", "join_authorised_via_users_server": "@carol:c"}), []StateKey{levels, alice, rules, carol}},
		"no join":       {member("@alice:a", map[string]any{"membership": "leave", "join_authorised_via_users_server": "@carol:c"}), []StateKey{levels, alice}},
		"third party":   {member("@bob:b", map[string]any{"membership": "invite", "third_party_invite": signed}), []StateKey{levels, alice, bob, rules, {"m.room.third_party_invite", "t"}}},
		"no invite":     {member("@bob:b", map[string]any{"membership": "leave", "third_party_invite": signed}), []StateKey{levels, alice, bob}},
		"hostile":       {member("@bob:b", map[string]any{"membership": []any{}, "join_authorised_via_users_server": 1, "third_party_invite": map[string]any{"signed": 1}}), []StateKey{levels, alice, bob}},
		"no content":    {member("@alice:a", nil), []StateKey{levels, alice}},
		"not state":     {Event{Type: "m.room.member", Sender: "@alice:a", Content: map[string]any{"membership": "join"}}, []StateKey{levels, alice}},
		"like a member": {Event{Type: "m.room.members", Sender: "@alice:a", StateKey: new("@bob:b"), Content: map[string]any{"membership": "join"}}, []StateKey{levels, alice}},
	} {
		for _, version := range []RoomVersion{"8", "9", "10", "11"} {
			require.Equal(t, append([]StateKey{create}, c.want...), AuthTypes(version, c.event), name)
		}
		require.Equal(t, c.want, AuthTypes("12", c.event), name)
	}
	// Restricted joins are new in version 8.
	restricted := member("@alice:a", map[string]any{"membership": "join", "join_authorised_via_users_server": "@carol:c"})
	for _, version := range allVersions[:7] {
		require.Equal(t, []StateKey{create, levels, alice, rules}, AuthTypes(version, restricted))
	}
	for _, version := range allVersions {
		require.Empty(t, AuthTypes(version, Event{Type: "m.room.create", Sender: "@alice:a", StateKey: new("")}))
	}
}
