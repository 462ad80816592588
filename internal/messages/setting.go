package messages

import (
	"encoding/json"
	"slices"
)

// Who may see events, from all to few. Unknown values count as shared.
const (
	worldReadable = "world_readable"
	shared        = "shared"
	invited       = "invited"
	joined        = "joined"
)

var visibilities = []string{worldReadable, shared, invited, joined}

// memberships are what a user can be to a room, from close to far. Unknown
// values count as leave.
var memberships = []string{"join", "invite", "knock", "leave", "ban"}

// A setting is what an event says if it is one that sets who may see events:
// each field is what the event would say if it were of the type that has it.
type setting struct {
	visibility string // one of visibilities
	membership string // one of memberships
	joinRule   string // any text
}

// settingOf reads an event. One that cannot be read lets nobody see more than
// must be: whatever its room's homeserver has made of it is not known.
func settingOf(event json.RawMessage) setting {
	content := objectOf(objectOf(event)["content"])
	if content == nil {
		return setting{visibility: joined, membership: "leave"}
	}
	return settingIn(content)
}

// settingIn is settingOf of an event's content.
func settingIn(content map[string]json.RawMessage) setting {
	return setting{
		visibility: known(visibilities, textOf(content["history_visibility"]), shared),
		membership: known(memberships, textOf(content["membership"]), "leave"),
		joinRule:   textOf(content["join_rule"]),
	}
}

func known(values []string, value, otherwise string) string {
	if slices.Contains(values, value) {
		return value
	}
	return otherwise
}

// closest returns the one of the values that comes first in order.
func closest(order []string, a, b string) string {
	if slices.Index(order, b) < slices.Index(order, a) {
		return b
	}
	return a
}

// objectOf reads a JSON object, nil if it is none. Not a struct: encoding/json
// takes keys in another case for its fields, and so would read something else
// than other servers do.
func objectOf(raw json.RawMessage) map[string]json.RawMessage {
	var object map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &object) != nil {
		return nil
	}
	return object
}

// textOf reads a JSON string, "" if it is none.
func textOf(raw json.RawMessage) string {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) != nil {
		return ""
	}
	return text
}
