package messages

import (
	"encoding/json"
	"slices"

	"lethe/internal/matrix"
)

// eventFacts are the facts about an event and its sender that decide who may see it.
type eventFacts struct {
	eventType string
	isState   bool

	// softFailed says that the homeserver hides the event from its users, and expired
	// that a retention policy hides it.
	softFailed, expired bool

	// ignored says that the reader ignores the sender, and erased that the sender's
	// account was erased.
	ignored, erased bool

	// own says that the event is the reader's own membership. Then membership is the new
	// membership, and before the previous one.
	own                bool
	membership, before string

	// visibilityBefore is the previous history visibility if the event changes it.
	visibilityBefore string

	// placed says that the event is in the timeline, and the state at it is known. Then
	// visibility is the history visibility in this state, reader the reader's membership
	// and joinRule the join rule.
	placed                       bool
	visibility, reader, joinRule string
}

// A decision says whether the reader sees an event, and whether it is shown redacted.
type decision struct {
	show, redacted bool

	// membership is the reader's membership at the event.
	membership string
}

// decide decides whether a reader who may read the room sees the event. Peeker says that
// the reader may read it only because it is world-readable.
func decide(s eventFacts, peeker bool) decision {
	hidden := decision{}
	switch {
	case s.softFailed, s.eventType == "org.matrix.dummy_event", s.eventType == "m.room.aliases":
		return hidden
	case !s.isState && (s.ignored || s.expired):
		return hidden
	case !s.placed && s.own:
		// It is the reader's own invite, or the end of it.
		return decision{show: true, membership: s.membership}
	case !s.placed:
		// It is not known who may see it.
		return hidden
	}
	wasJoined, show := s.sees(peeker)
	if !show || s.isPublicCallInvite() {
		return hidden
	}
	membership := s.reader
	if s.own {
		membership = s.membership
	}
	return decision{show: true, redacted: s.erased && !wasJoined, membership: membership}
}

// sees reports whether the reader sees the event because of the history visibility or of
// the reader's membership. WasJoined is set only if the sender was erased, because it does
// not matter otherwise.
func (s eventFacts) sees(peeker bool) (wasJoined, show bool) {
	visibility := s.visibility
	if s.eventType == "m.room.history_visibility" {
		// A reader who may see events before or after the change sees the change.
		visibility = closest(visibilities, visibility, s.visibilityBefore)
	}
	if !s.erased && (visibility == worldReadable || visibility == shared && !peeker) {
		return false, true
	}
	reader := s.reader
	if s.own {
		if s.membership == "leave" && (s.before == "join" || s.before == "invite") {
			return false, true
		}
		reader = closest(memberships, s.membership, s.before)
	}
	switch {
	case reader == "join":
		return true, true
	case s.visibility == joined:
		return false, false
	case s.visibility == invited:
		return false, reader == "invite"
	}
	return false, s.visibility == worldReadable || !peeker
}

// isPublicCallInvite reports whether the event calls all members of a public room.
func (s eventFacts) isPublicCallInvite() bool {
	return s.eventType == "m.call.invite" && !s.isState && s.joinRule == "public"
}

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
	text, _ := matrix.Text(raw)
	return text
}
