package matrix

import (
	"fmt"
)

// keptKeys are those that every redacted event keeps.
var keptKeys = []string{
	"auth_events", "content", "depth", "event_id", "hashes", "origin_server_ts", "prev_events", "room_id", "sender", "signatures",
	"state_key", "type",
}

// oldKeptKeys are those that it kept besides up to version 10.
var oldKeptKeys = []string{"membership", "origin", "prev_state"}

// keptContent is, by type, what is kept of an event's content.
var keptContent = map[string][]string{
	"m.room.create":             {"creator"},
	"m.room.history_visibility": {"history_visibility"},
	"m.room.join_rules":         {"allow", "join_rule"},
	"m.room.member":             {"join_authorised_via_users_server", "membership"},
	"m.room.power_levels":       {"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"},
}

// newKeptContent is what is kept besides since version 11.
var newKeptContent = map[string][]string{
	"m.room.power_levels": {"invite"},
	"m.room.redaction":    {"redacts"},
}

// Redact returns the canonical JSON of what is left of an event when it has been
// redacted: what the room's rules rest on. Its id and its signatures are those
// of the whole event; the key unsigned is gone. A second redaction changes
// nothing.
func Redact(version RoomVersion, raw []byte) ([]byte, error) {
	event, err := parseEvent(version, raw)
	if err != nil {
		return nil, fmt.Errorf("redact: %w", err)
	}
	redacted, err := appendCanonical(nil, event.redacted(version), 0)
	if err != nil {
		return nil, fmt.Errorf("redact: %w", err)
	}
	return redacted, nil
}

// redacted returns the event as [Redact] leaves it. Values are shared with e.
func (e parsedEvent) redacted(version RoomVersion) parsedEvent {
	left := parsedEvent{}
	keep(left, e, keptKeys)
	if !version.newRedactions() {
		keep(left, e, oldKeptKeys)
	}
	left["content"] = redactedContent(version, e.kind(), e.content())
	return left
}

func redactedContent(version RoomVersion, kind string, content map[string]any) map[string]any {
	if version.newRedactions() && kind == "m.room.create" {
		return content
	}
	left := map[string]any{}
	keep(left, content, keptContent[kind])
	if !version.newRedactions() {
		return left
	}
	keep(left, content, newKeptContent[kind])
	if invite, ok := content["third_party_invite"].(map[string]any); ok && kind == "m.room.member" {
		leftInvite := map[string]any{}
		keep(leftInvite, invite, []string{"signed"})
		left["third_party_invite"] = leftInvite
	}
	return left
}

// keep copies those keys that are there.
func keep(into, from map[string]any, keys []string) {
	for _, key := range keys {
		if value, ok := from[key]; ok {
			into[key] = value
		}
	}
}
