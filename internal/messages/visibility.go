package messages

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
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

// A sight decides what the reader of a page may see. What it has learned for some events,
// it does not ask again for others.
type sight struct {
	m        *Messages
	snapshot *timeline.Snapshot
	room     string
	reader   Reader
	access   access

	// hiddenBefore is known after the first events.
	hiddenBefore *int64

	// facts are those that are known, with settings in place of the events.
	facts    timeline.VisibilityFacts
	settings map[string]setting

	groups  map[int64]bool
	senders map[string]bool
	config  bool
}

// learn asks for what the sight does not know yet.
func (s *sight) learn(ctx context.Context, question timeline.VisibilityQuery) (err error) {
	if s.groups == nil {
		s.groups, s.senders, s.settings = map[int64]bool{}, map[string]bool{}, map[string]setting{}
		s.facts = timeline.VisibilityFacts{States: map[int64]timeline.StateAt{}, Ignored: map[string]bool{}, Erased: map[string]bool{}}
		if s.hiddenBefore, err = s.m.hiddenBefore(ctx, s.snapshot, s.room); err != nil {
			return err
		}
	}
	question.Room, question.Reader = s.room, s.reader.UserID
	question.Groups = slices.DeleteFunc(distinct(question.Groups), func(group int64) bool { return s.groups[group] })
	question.Senders = slices.DeleteFunc(distinct(question.Senders), func(sender string) bool { return s.senders[sender] })
	question.Replaced = distinct(question.Replaced)
	question.AdminConfig = question.AdminConfig && !s.config
	if len(question.Groups)+len(question.Senders)+len(question.Replaced) == 0 && !question.AdminConfig {
		return nil
	}
	for _, group := range question.Groups {
		s.groups[group] = true
	}
	for _, sender := range question.Senders {
		s.senders[sender] = true
	}
	s.config = s.config || question.AdminConfig
	facts, err := s.snapshot.VisibilityFacts(ctx, question)
	if err != nil {
		return err
	}
	maps.Copy(s.facts.States, facts.States)
	for id, event := range facts.Events {
		s.settings[id] = settingOf(event)
	}
	maps.Copy(s.facts.Ignored, facts.Ignored)
	maps.Copy(s.facts.Erased, facts.Erased)
	if question.AdminConfig {
		s.facts.AdminConfig = facts.AdminConfig
	}
	return nil
}

// visible returns the events that the reader may see, in their order. It learns the same of
// the children, which are shown with the events.
func (s *sight) visible(ctx context.Context, events []timeline.Event, children *timeline.Children) ([]shown, error) {
	if len(events) == 0 {
		return nil, nil
	}
	subjects := make([]eventFacts, len(events))
	changes := map[int]change{}
	var question timeline.VisibilityQuery
	question.Groups, question.Senders = children.Facts()
	for i := range events {
		event, f := &events[i], &subjects[i]
		f.eventType, f.isState = event.Type, event.StateKey != nil
		f.softFailed = softFailed(event.InternalMetadata)
		f.own = event.Type == "m.room.member" && f.isState && *event.StateKey == s.reader.UserID
		if f.own || event.Type == "m.room.history_visibility" {
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
		question.AdminConfig = question.AdminConfig || f.softFailed && s.reader.Admin
	}
	if err := s.learn(ctx, question); err != nil {
		return nil, err
	}
	facts := &s.facts

	visible := make([]shown, 0, len(events))
	for i := range events {
		event, f := &events[i], &subjects[i]
		f.expired = s.hiddenBefore != nil && event.OriginTS < *s.hiddenBefore
		f.softFailed = f.softFailed && !wantsSoftFailed(facts.AdminConfig, event.InternalMetadata)
		f.ignored, f.erased = facts.Ignored[event.Sender], facts.Erased[event.Sender]
		if changed, ok := changes[i]; ok {
			before := changed.before
			if replaced, there := s.settings[changed.replaces]; there {
				before = replaced
			}
			f.membership, f.before, f.visibilityBefore = changed.to.membership, before.membership, before.visibility
		}
		if event.StateGroup != nil && !event.Outlier {
			var state timeline.StateAt
			if state, f.placed = facts.States[*event.StateGroup]; f.placed {
				f.visibility = settingAt(s.settings, state.HistoryVisibility).visibility
				f.reader = settingAt(s.settings, state.Member).membership
				f.joinRule = settingAt(s.settings, state.JoinRules).joinRule
			}
		}
		if v := decide(*f, s.access.peeker); v.show {
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
