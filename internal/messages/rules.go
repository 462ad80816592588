package messages

// A subject is what the rules of who may see an event ask of the event and its
// sender.
type subject struct {
	eventType string
	isState   bool

	// softFailed says that the homeserver keeps the event from its users, and
	// expired that a retention policy does.
	softFailed, expired bool

	// ignored says that the reader ignores the sender, erased that the sender
	// wanted to be forgotten.
	ignored, erased bool

	// own says that it is a member event of the reader's own, membership what it
	// makes of the reader, and before what the reader was.
	own                bool
	membership, before string

	// visibilityBefore is what the event replaces if it is one of the room's
	// history visibility.
	visibilityBefore string

	// placed says that the event is in the timeline and the state at it known.
	// Visibility, reader and joinRule are of this state: the room's history
	// visibility, the reader's membership, and how one joins.
	placed                       bool
	visibility, reader, joinRule string
}

// A verdict is how the reader gets to see an event: not at all, as redacted, or
// as it is.
type verdict struct {
	show, redacted bool

	// membership is the reader's at the event.
	membership string
}

// judge says how a reader, who may read the room as a peeker or as more, gets to
// see the event.
func judge(s subject, peeker bool) verdict {
	hidden := verdict{}
	switch {
	case s.softFailed, s.eventType == "org.matrix.dummy_event", s.eventType == "m.room.aliases":
		return hidden
	case !s.isState && (s.ignored || s.expired):
		return hidden
	case !s.placed && s.own:
		// It is about nobody but the reader, who learns by it of an invitation, or
		// of the end of one.
		return verdict{show: true, membership: s.membership}
	case !s.placed:
		// Whoever may see it, nobody can tell.
		return hidden
	}
	wasJoined, show := s.sees(peeker)
	if !show || s.ringsStrangers() {
		return hidden
	}
	membership := s.reader
	if s.own {
		membership = s.membership
	}
	return verdict{show: true, redacted: s.erased && !wasJoined, membership: membership}
}

// sees reports whether the reader sees the event by the room's history
// visibility or by being there. WasJoined is only said where it matters: if the
// sender was erased.
func (s subject) sees(peeker bool) (wasJoined, show bool) {
	visibility := s.visibility
	if s.eventType == "m.room.history_visibility" {
		// Those who see one side of the change see the change.
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

// ringsStrangers reports whether it is a call to everybody in a room that
// anybody may join.
func (s subject) ringsStrangers() bool {
	return s.eventType == "m.call.invite" && !s.isState && s.joinRule == "public"
}
