package httpapi

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"lethe/internal/store"
)

// An eventBody is an event's JSON object. The values stay as they were sent.
type eventBody map[string]json.RawMessage

// object reads a JSON object.
func object(value json.RawMessage) (eventBody, bool) {
	var body eventBody
	err := json.Unmarshal(value, &body)
	return body, err == nil && body != nil
}

// text reads a JSON string, nil if it is none.
func text(value json.RawMessage) *string {
	var text *string
	if err := json.Unmarshal(value, &text); err != nil {
		return nil
	}
	return text
}

// quoted is a text as a JSON string.
func quoted(text string) json.RawMessage {
	value, _ := json.Marshal(text) // never fails
	return value
}

// render is an object as JSON. What was read from JSON can be rendered.
func (e eventBody) render() json.RawMessage {
	value, _ := json.Marshal(e)
	return value
}

// readEvent reads an event, redacted if it is to be. It is false if the event
// is the zero event or its JSON is no object.
func readEvent(event store.Event) (eventBody, bool) {
	body, ok := object(event.JSON)
	if !ok {
		return nil, false
	}
	unsigned, _ := object(body["unsigned"])
	if event.RedactedBy != nil {
		body = prune(body, event.RoomVersion)
		unsigned = pick(unsigned, "age_ts", "replaces_state")
		unsigned["redacted_by"] = quoted(*event.RedactedBy)
	}
	if unsigned == nil {
		unsigned = eventBody{}
	}
	body["unsigned"] = unsigned.render()
	body["event_id"], body["room_id"] = quoted(event.ID), quoted(event.Room)
	return body, true
}

// replacedState is the id of the state event that a state event took the place
// of, "" if there was none or nobody knows. An event outside the timeline, such
// as a history purge leaves, is not shown with what it replaced.
func replacedState(event store.Event) string {
	if event.Outlier {
		return ""
	}
	body, _ := object(event.JSON)
	unsigned, _ := object(body["unsigned"])
	previous := text(unsigned["replaces_state"])
	if previous == nil || body["state_key"] == nil {
		return ""
	}
	return *previous
}

// notForClients are the keys of an event that only servers need.
var notForClients = []string{"auth_events", "prev_events", "hashes", "signatures", "depth", "origin", "prev_state"}

// alsoOnTop are the keys of unsigned that old clients look for in the event.
var alsoOnTop = []string{"age", "redacted_because", "replaces_state", "prev_content"}

// clientEvent renders an event as the first clients' API did, which the admin
// API still does. Previous are events that state events may have replaced. It is
// false if the event cannot be read.
//
// What only the sender gets to see of an event, such as its transaction id, is
// not shown to an admin.
func clientEvent(event store.Event, previous map[string]store.Event, now time.Time) (eventBody, bool) {
	body, ok := readEvent(event)
	if !ok {
		return nil, false
	}
	unsigned, _ := object(body["unsigned"])
	if since, ok := integer(unsigned["age_ts"]); ok {
		unsigned["age"] = json.RawMessage(strconv.FormatInt(now.UnixMilli()-since, 10))
	}
	for _, key := range []string{"age_ts", "invite_room_state", "knock_room_state"} {
		delete(unsigned, key)
	}
	if replaced, ok := readEvent(previous[replacedState(event)]); ok {
		if content, ok := object(replaced["content"]); ok {
			unsigned["prev_content"], unsigned["prev_sender"] = content.render(), replaced["sender"]
		}
	}
	if event.RedactedBy != nil && event.Redaction != nil {
		redaction := store.Event{
			ID: *event.RedactedBy, Room: event.Room, RoomVersion: event.RoomVersion, JSON: event.Redaction,
		}
		if because, ok := clientEvent(redaction, nil, now); ok {
			unsigned["redacted_because"] = because.render()
		}
	}
	if kind := text(body["type"]); kind != nil && *kind == "m.room.redaction" {
		showTarget(body, event.RoomVersion)
	}
	for _, key := range notForClients {
		delete(body, key)
	}
	if sender, ok := body["sender"]; ok {
		body["user_id"] = sender
	}
	for _, key := range alsoOnTop {
		if value, ok := unsigned[key]; ok {
			body[key] = value
		}
	}
	body["unsigned"] = unsigned.render()
	return body, true
}

// showTarget puts what a redaction redacts where clients of all times look:
// since version 11 it is in the content, before it is beside it.
func showTarget(body eventBody, version *string) {
	content, ok := object(body["content"])
	if !ok {
		return
	}
	target := body["redacts"]
	if versionNumber(version) >= 11 {
		target = content["redacts"]
	}
	if target != nil {
		content["redacts"], body["redacts"] = target, target
		body["content"] = content.render()
	}
}

// newestVersion is the room version whose rules are taken for those of an
// unknown one.
const newestVersion = 12

func versionNumber(version *string) int {
	if version == nil {
		return newestVersion
	}
	if number, err := strconv.Atoi(*version); err == nil && number >= 1 && number <= newestVersion {
		return number
	}
	return newestVersion
}

// prune returns what a redaction leaves of an event: what the room's rules rest
// on. Unlike [matrix.Redact] it reads events of all versions, and such as no
// server would make.
func prune(body eventBody, roomVersion *string) eventBody {
	version := versionNumber(roomVersion)
	keys := []string{"type", "sender", "state_key", "origin_server_ts"}
	if version < 11 {
		keys = append(keys, "membership")
	}
	left := pick(body, keys...)
	content, _ := object(body["content"])
	kind := text(body["type"])
	if kind == nil {
		kind = new("")
	}
	left["content"] = pruneContent(version, *kind, content).render()
	return left
}

func pruneContent(version int, kind string, content eventBody) eventBody {
	since := func(first int, key string) []string {
		if version < first {
			return nil
		}
		return []string{key}
	}
	switch kind {
	case "m.room.member":
		left := pick(content, append(since(9, "join_authorised_via_users_server"), "membership")...)
		if invite, ok := object(content["third_party_invite"]); ok && version >= 11 {
			left["third_party_invite"] = pick(invite, "signed").render()
		}
		return left
	case "m.room.create":
		if version >= 11 && content != nil {
			return content
		}
		return pick(content, "creator")
	case "m.room.join_rules":
		return pick(content, append(since(8, "allow"), "join_rule")...)
	case "m.room.power_levels":
		return pick(content, append(since(11, "invite"), "ban", "events", "events_default", "kick", "redact",
			"state_default", "users", "users_default")...)
	case "m.room.history_visibility":
		return pick(content, "history_visibility")
	case "m.room.aliases":
		if version < 6 {
			return pick(content, "aliases")
		}
	case "m.room.redaction":
		return pick(content, since(11, "redacts")...)
	}
	return eventBody{}
}

// pick returns those of an object's keys that are there.
func pick(from eventBody, keys ...string) eventBody {
	picked := eventBody{}
	for key, value := range from {
		if slices.Contains(keys, key) {
			picked[key] = value
		}
	}
	return picked
}
