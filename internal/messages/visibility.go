package messages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"lethe/internal/matrix"
	"lethe/internal/retention"
	"lethe/internal/store/postgres"
	"lethe/internal/store/timeline"
)

// A shown event is an event that its reader sees.
type shown struct {
	timeline.Event

	// membership is the reader's membership at the event, "" to leave it out.
	membership string

	// erased says that the event is shown redacted, because its sender was erased.
	erased bool
}

// visible returns the events that the reader may see, in their order.
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
	subjects := make([]eventFacts, len(events))
	changes := map[int]change{}
	question := timeline.VisibilityQuery{Room: room, Reader: reader.UserID}
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
		if v := decide(*s, access.peeker); v.show {
			visible = append(visible, shown{Event: *event, membership: v.membership, erased: v.redacted})
		}
	}
	return visible, nil
}

// hiddenBefore returns the time in ms before which messages of the room are too old to be
// shown, nil if there is no such time.
func (m *Messages) hiddenBefore(ctx context.Context, snapshot *timeline.Snapshot, room string) (*int64, error) {
	if !m.options.Retention.Enabled {
		return nil, nil
	}
	var policy *retention.Policy
	minLifetime, maxLifetime, err := snapshot.RetentionPolicy(ctx, room)
	switch {
	case err == nil:
		policy = &retention.Policy{MinLifetime: minLifetime, MaxLifetime: maxLifetime}
	case !errors.Is(err, postgres.ErrNotFound):
		return nil, err
	}
	before, hidden := m.options.Retention.HiddenBefore(policy, now())
	if !hidden {
		return nil, nil
	}
	return &before, nil
}

// A change is the effect of a state event.
type change struct {
	// to is the event's own setting.
	to setting

	// replaces is the id of the replaced event, "" if it is not known. Before is the
	// replaced setting as the event's unsigned field has it.
	replaces string
	before   setting
}

// changeOf reads a state event.
func changeOf(event *timeline.Event) change {
	object := objectOf(event.JSON)
	unsigned := objectOf(object["unsigned"])
	changed := change{
		to:       settingIn(objectOf(object["content"])),
		replaces: textOf(unsigned["replaces_state"]),
		before:   settingIn(nil),
	}
	if event.RedactedBy == nil { // a redaction removes it
		changed.before = settingIn(objectOf(unsigned["prev_content"]))
	}
	return changed
}

// settingAt returns the setting of the event with the id, and the default if the id is
// "".
func settingAt(settings map[string]setting, id string) setting {
	if id == "" {
		return settingIn(nil)
	}
	if s, ok := settings[id]; ok {
		return s
	}
	return settingOf(nil)
}

// wantsSoftFailed reports whether a server admin's configuration shows an event that the
// homeserver hides from its users.
func wantsSoftFailed(config, internalMetadata json.RawMessage) bool {
	return isTrue(config, "return_soft_failed_events") ||
		isTrue(config, "return_policy_server_spammy_events") && isTrue(internalMetadata, "policy_server_spammy")
}

// isTrue reports whether the key's value in an object is true.
func isTrue(object json.RawMessage, key string) bool {
	return mayHaveKey(object, key) && string(objectOf(object)[key]) == "true"
}

// softFailed reports whether the homeserver hides an event from its users, according to
// the event's internal metadata. It reports true if the metadata cannot be read.
func softFailed(internalMetadata json.RawMessage) bool {
	const key = "soft_failed"
	if !mayHaveKey(internalMetadata, key) {
		return false
	}
	metadata := objectOf(internalMetadata)
	switch string(metadata[key]) {
	case "false", "null", "":
		return metadata == nil
	}
	return true
}

// mayHaveKey reports whether an object may have the key. Most objects do not have the keys
// in question, and need not be decoded.
func mayHaveKey(object json.RawMessage, key string) bool {
	return bytes.Contains(object, []byte(key)) || bytes.IndexByte(object, '\\') >= 0
}

// distinct sorts the values in place and returns them without repetitions.
func distinct[T int64 | string](values []T) []T {
	slices.Sort(values)
	return slices.Compact(values)
}

// An access says how a reader may read a room.
type access struct {
	// peeker says that the reader is no member, and the room is world-readable.
	peeker bool

	// left is the position of the leave event of a reader who has left. It is nil for
	// other readers.
	left *matrix.Token
}

// accessOf decides how a reader may read the room. The error is [ErrForbidden] if the
// reader may not.
func accessOf(reader timeline.ReaderAccess) (access, error) {
	switch {
	case reader.Membership == "join":
		return access{}, nil
	// Without the leave event it is not known how far the reader may read.
	case reader.Membership == "leave" && reader.Remembered && reader.At != nil:
		return access{left: reader.At}, nil
	case settingOf(reader.HistoryVisibility).visibility == worldReadable:
		return access{peeker: true}, nil
	}
	return access{}, ErrForbidden
}
