package messages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"lethe/internal/retention"
	"lethe/internal/store/postgres"
	"lethe/internal/store/timeline"
)

// A shown event is one that its reader gets to see.
type shown struct {
	timeline.Event

	// membership is the reader's membership of the room at the event, "" if it is
	// not to be told.
	membership string

	// erased says that the sender was erased, and the event is shown redacted.
	erased bool
}

// visible returns those of the events that the reader may see, in their order.
func (m *Messages) visible(ctx context.Context, snapshot *timeline.Snapshot, room string, reader Reader, access access,
	events []timeline.Event,
) ([]shown, error) {
	if len(events) == 0 {
		return nil, nil
	}
	hiddenBefore, err := m.hiddenBefore(ctx, snapshot, room)
	if err != nil {
		return nil, err
	}
	subjects := make([]subject, len(events))
	changes := map[int]change{}
	question := timeline.VisibilityQuestion{Room: room, Reader: reader.UserID}
	for i := range events {
		event, s := &events[i], &subjects[i]
		s.eventType, s.isState = event.Type, event.StateKey != nil
		s.softFailed = softFailed(event.InternalMetadata)
		s.expired = hiddenBefore != nil && event.OriginTS < *hiddenBefore
		s.own = event.Type == "m.room.member" && s.isState && *event.StateKey == reader.UserID
		if s.own || event.Type == "m.room.history_visibility" {
			changed := changeOf(event)
			if changed.replaces != "" {
				question.Replaced = append(question.Replaced, changed.replaces)
			}
			changes[i] = changed
		}
		if event.StateGroup != nil && !event.Outlier {
			question.Groups = append(question.Groups, *event.StateGroup)
		}
		question.Senders = append(question.Senders, event.Sender)
		question.AdminConfig = question.AdminConfig || s.softFailed && reader.Admin
	}
	question.Groups = distinct(question.Groups)
	question.Senders = distinct(question.Senders)
	question.Replaced = distinct(question.Replaced)
	facts, err := snapshot.VisibilityFacts(ctx, question)
	if err != nil {
		return nil, err
	}

	settings := make(map[string]setting, len(facts.Events))
	for id, event := range facts.Events {
		settings[id] = settingOf(event)
	}
	visible := make([]shown, 0, len(events))
	for i := range events {
		event, s := &events[i], &subjects[i]
		s.softFailed = s.softFailed && !wantsSoftFailed(facts.AdminConfig, event.InternalMetadata)
		s.ignored, s.erased = facts.Ignored[event.Sender], facts.Erased[event.Sender]
		if changed, ok := changes[i]; ok {
			before := changed.before
			if replaced, there := settings[changed.replaces]; there {
				before = replaced
			}
			s.membership, s.before, s.visibilityBefore = changed.to.membership, before.membership, before.visibility
		}
		if event.StateGroup != nil && !event.Outlier {
			var state timeline.StateAt
			if state, s.placed = facts.States[*event.StateGroup]; s.placed {
				s.visibility = settingAt(settings, state.HistoryVisibility).visibility
				s.reader = settingAt(settings, state.Member).membership
				s.joinRule = settingAt(settings, state.JoinRules).joinRule
			}
		}
		if v := judge(*s, access.peeker); v.show {
			visible = append(visible, shown{Event: *event, membership: v.membership, erased: v.redacted})
		}
	}
	return visible, nil
}

// hiddenBefore returns the time in ms before which messages of the room were
// sent too long ago to be shown, nil if there is none.
func (m *Messages) hiddenBefore(ctx context.Context, snapshot *timeline.Snapshot, room string) (*int64, error) {
	if !m.options.Retention.Enabled {
		return nil, nil
	}
	var policy *retention.Policy
	least, most, err := snapshot.RetentionPolicy(ctx, room)
	switch {
	case err == nil:
		policy = &retention.Policy{MinLifetime: least, MaxLifetime: most}
	case !errors.Is(err, postgres.ErrNotFound):
		return nil, err
	}
	before, hidden := m.options.Retention.HiddenBefore(policy, now())
	if !hidden {
		return nil, nil
	}
	return &before, nil
}

// A change is what a state event makes of what was before.
type change struct {
	to setting

	// replaces is the id of the event that was the state before, "" if none is
	// named, and before what a server once noted of it.
	replaces string
	before   setting
}

// changeOf reads a state event of the page.
func changeOf(event *timeline.Event) change {
	object := objectOf(event.JSON)
	unsigned := objectOf(object["unsigned"])
	changed := change{
		to:       settingIn(objectOf(object["content"])),
		replaces: textOf(unsigned["replaces_state"]),
		before:   settingIn(nil),
	}
	if event.RedactedBy == nil { // of which a redaction leaves nothing
		changed.before = settingIn(objectOf(unsigned["prev_content"]))
	}
	return changed
}

// settingAt is what the event of a state says, and where none is set what then
// holds.
func settingAt(settings map[string]setting, id string) setting {
	if id == "" {
		return settingIn(nil)
	}
	if s, ok := settings[id]; ok {
		return s
	}
	return settingOf(nil)
}

// wantsSoftFailed reports whether a server admin's configuration asks for an
// event that the homeserver keeps from its users.
func wantsSoftFailed(config, internalMetadata json.RawMessage) bool {
	return isTrue(config, "return_soft_failed_events") ||
		isTrue(config, "return_policy_server_spammy_events") && isTrue(internalMetadata, "policy_server_spammy")
}

// isTrue reports whether an object has true under the key.
func isTrue(object json.RawMessage, key string) bool {
	return mentions(object, key) && string(objectOf(object)[key]) == "true"
}

// softFailed reports whether a homeserver keeps an event from its users, by what
// it notes about it. In doubt it does.
func softFailed(internalMetadata json.RawMessage) bool {
	const key = "soft_failed"
	if !mentions(internalMetadata, key) {
		return false
	}
	metadata := objectOf(internalMetadata)
	switch string(metadata[key]) {
	case "false", "null", "":
		return metadata == nil
	}
	return true
}

// mentions reports whether an object may have the key. Hardly any does of those
// that are asked about here, so most need not be read.
func mentions(object json.RawMessage, key string) bool {
	return bytes.Contains(object, []byte(key)) || bytes.IndexByte(object, '\\') >= 0
}

// distinct returns the values without repetition, sorted, in place.
func distinct[T int64 | string](values []T) []T {
	slices.Sort(values)
	return slices.Compact(values)
}
