package messages

import (
	"encoding/json"
	"slices"
)

// The history visibilities, the widest first. Unknown values count as shared.
const (
	worldReadable = "world_readable"
	shared        = "shared"
	invited       = "invited"
	joined        = "joined"
)

var visibilities = []string{worldReadable, shared, invited, joined}

// memberships are the memberships, the closest first. Unknown values count as leave.
var memberships = []string{"join", "invite", "knock", "leave", "ban"}

// A setting is the content of a state event that decides who may see events. Each field
// belongs to one type of event.
type setting struct {
	visibility string // one of visibilities
	membership string // one of memberships
	joinRule   string // any text
}

// settingOf reads an event. For an event that cannot be read it returns the strictest
// setting, because it is not known how the homeserver has read it.
func settingOf(event json.RawMessage) setting {
	content := objectOf(objectOf(event)["content"])
	if content == nil {
		return setting{visibility: joined, membership: "leave"}
	}
	return settingIn(content)
}

// settingIn reads the content of an event.
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

// closest returns the value that comes first in the order.
func closest(order []string, a, b string) string {
	if slices.Index(order, b) < slices.Index(order, a) {
		return b
	}
	return a
}

// objectOf reads a JSON object, nil if it is not one. It does not decode into a struct,
// because encoding/json would ignore the case of the keys, unlike other servers.
func objectOf(raw json.RawMessage) map[string]json.RawMessage {
	var object map[string]json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &object) != nil {
		return nil
	}
	return object
}

// textOf reads a JSON string, "" if it is not one.
func textOf(raw json.RawMessage) string {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) != nil {
		return ""
	}
	return text
}
