package matrix

import (
	"fmt"
)

// kept says which room versions keep a key in redacted events, from the first to the
// last. A last of 0 means that all newer versions keep it too.
type kept struct{ first, last int }

// keptKeys are the kept keys of an event.
var keptKeys = map[string]kept{
	"auth_events":      {first: 1},
	"content":          {first: 1},
	"depth":            {first: 1},
	"event_id":         {first: 1},
	"hashes":           {first: 1},
	"membership":       {first: 1, last: 10},
	"origin":           {first: 1, last: 10},
	"origin_server_ts": {first: 1},
	"prev_events":      {first: 1},
	"prev_state":       {first: 1, last: 10},
	"room_id":          {first: 1},
	"sender":           {first: 1},
	"signatures":       {first: 1},
	"state_key":        {first: 1},
	"type":             {first: 1},
}

// keptContent is the kept keys of an event's content, by event type. Since version 11
// the whole content of m.room.create is kept, and a part of m.room.member's
// third_party_invite.
var keptContent = map[string]map[string]kept{
	"m.room.aliases":            {"aliases": {first: 1, last: 5}},
	"m.room.create":             {"creator": {first: 1}},
	"m.room.history_visibility": {"history_visibility": {first: 1}},
	"m.room.join_rules":         {"allow": {first: 8}, "join_rule": {first: 1}},
	"m.room.member":             {"join_authorised_via_users_server": {first: 9}, "membership": {first: 1}},
	"m.room.power_levels": {
		"ban": {first: 1}, "events": {first: 1}, "events_default": {first: 1}, "invite": {first: 11}, "kick": {first: 1},
		"redact": {first: 1}, "state_default": {first: 1}, "users": {first: 1}, "users_default": {first: 1},
	},
	"m.room.redaction": {"redacts": {first: 11}},
}

// in reports whether the version keeps the key.
func (k kept) in(version int) bool {
	return k.first > 0 && k.first <= version && (k.last == 0 || version <= k.last)
}

// RedactionKeeps reports whether a redacted event keeps a key. It treats an unknown
// version as the newest.
func RedactionKeeps(version RoomVersion, key []byte) bool {
	return keptKeys[string(key)].in(version.number())
}

// AppendRedactedContent appends to dst the redacted content of an event of the given
// type. It keeps the JSON text of the values. Content that is not an object becomes an
// empty object. Unlike [Redact] it treats an unknown version as the newest, and
// accepts content that no server would create.
func AppendRedactedContent(dst []byte, version RoomVersion, kind string, content []byte) []byte {
	object, ok := SplitObject(nil, content)
	switch {
	case !ok:
		return append(dst, "{}"...)
	case keepsAllContent(version, kind):
		return append(dst, content...)
	}
	number, keys := version.number(), keptContent[kind]
	dst = append(dst, '{')
	start := len(dst)
	for _, field := range object {
		value := field.Value
		if !keys[string(field.Name)].in(number) {
			invite, ok := SplitObject(nil, value)
			if !ok || !keepsSigned(version, kind, string(field.Name)) {
				continue
			}
			value = []byte("{}")
			if signed := invite.Get("signed"); signed != nil {
				value = append(append([]byte(`{"signed":`), signed...), '}')
			}
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, field.Key...), ':'), value...)
	}
	return append(dst, '}')
}

func keepsAllContent(version RoomVersion, kind string) bool {
	return version.newRedactions() && kind == "m.room.create"
}

// keepsSigned reports whether the key signed is kept of an object in the content.
func keepsSigned(version RoomVersion, kind, key string) bool {
	return version.newRedactions() && kind == "m.room.member" && key == "third_party_invite"
}

// Redact returns the canonical JSON of the redacted event. The result has the id and
// the signatures of the whole event, and no key unsigned. A second redaction changes
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
	left := parsedEvent(keep(e, keptKeys, version))
	left["content"] = redactedContent(version, e.kind(), e.content())
	return left
}

func redactedContent(version RoomVersion, kind string, content map[string]any) map[string]any {
	if keepsAllContent(version, kind) {
		return content
	}
	left := keep(content, keptContent[kind], version)
	for key, value := range content {
		if object, ok := value.(map[string]any); ok && keepsSigned(version, kind, key) {
			left[key] = keep(object, map[string]kept{"signed": {first: 1}}, version)
		}
	}
	return left
}

// keep returns an object with only the keys that the version keeps.
func keep(from map[string]any, keys map[string]kept, version RoomVersion) map[string]any {
	left := map[string]any{}
	for key, lasts := range keys {
		if value, ok := from[key]; ok && lasts.in(version.number()) {
			left[key] = value
		}
	}
	return left
}
