package matrix

import (
	"slices"
)

// A StateKey names one piece of a room's state: a type and a state key.
type StateKey struct{ Type, Key string }

// AuthTypes lists the state that authorises the event, each piece once. The room's
// current state events of these become the event's AuthEvents. An m.room.create
// event has none. Since version 12 the create event is not listed.
func AuthTypes(version RoomVersion, e Event) []StateKey {
	if e.Type == "m.room.create" {
		return nil
	}
	var types []StateKey
	add := func(kind, key string) {
		if t := (StateKey{kind, key}); !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	if !version.roomIsCreateEvent() {
		add("m.room.create", "")
	}
	add("m.room.power_levels", "")
	add("m.room.member", e.Sender)
	if e.Type != "m.room.member" || e.StateKey == nil {
		return types
	}
	add("m.room.member", *e.StateKey)
	membership, _ := e.Content["membership"].(string)
	switch membership {
	case "join", "invite", "knock":
		add("m.room.join_rules", "")
	}
	if user, ok := e.Content["join_authorised_via_users_server"].(string); ok && membership == "join" && version.number() >= 8 {
		add("m.room.member", user)
	}
	if invite, ok := e.Content["third_party_invite"].(map[string]any); ok && membership == "invite" {
		signed, _ := invite["signed"].(map[string]any)
		if token, ok := signed["token"].(string); ok {
			add("m.room.third_party_invite", token)
		}
	}
	return types
}
