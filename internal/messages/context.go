package messages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// ErrEventNotFound is returned when the room has no such event that can be read.
var ErrEventNotFound = errors.New("the room has no such event")

// maxContextState bounds how many events of state a context has. Memberships come
// last: a room with more of everything else is not a room.
const maxContextState = 10_000

// A ContextRequest asks for an event and what is around it.
type ContextRequest struct {
	Room, EventID string

	// Reader is the server admin who asks. Nothing is hidden from one.
	Reader Reader

	// Limit is the most events around it, from 0 to 1000: half of them before it,
	// and the odd one after it. It has no default.
	Limit int

	// Filter says which of the events around it are wanted. Of the state it only
	// says, if it loads members lazily, that no memberships are wanted but those of
	// the senders.
	Filter Filter

	// Raw gives events as servers get them.
	Raw bool
}

// An EventContext is what a ContextRequest gets.
type EventContext struct {
	Event json.RawMessage

	// Before are the events before it, the newest first; After those after it, the
	// oldest first.
	Before, After []json.RawMessage

	// State is the state of the room after the last of these events, at most 10,000
	// of its events. There is none if nobody knows it.
	State []json.RawMessage

	// Start is the token of the page backwards that follows, End that of the page
	// forwards.
	Start, End matrix.PageToken
}

// Context returns an event and what is around it, to a server admin: no membership is
// asked for, and nothing is hidden. If the room has no such event, it was refused, or
// cannot be read, the error is [ErrEventNotFound].
func (m *Messages) Context(ctx context.Context, request ContextRequest) (EventContext, error) {
	request.Limit = min(max(request.Limit, 0), maxLimit)
	var found EventContext
	err := m.read(ctx, request.Room, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		around, err := selectAround(ctx, snapshot, request)
		if err != nil {
			return err
		}
		found, err = showAround(ctx, snapshot, request, around)
		return err
	})
	if err != nil {
		return EventContext{}, fmt.Errorf("read an event's context: %w", err)
	}
	return found, nil
}

// An around is what an EventContext is made of.
type around struct {
	event         timeline.Event
	before, after []timeline.Event
	state         []timeline.Event
	start, end    matrix.Token
}

// selectAround reads an event and what is around it.
func selectAround(ctx context.Context, snapshot *timeline.Snapshot, request ContextRequest) (around, error) {
	var a around
	events, err := snapshot.EventsOf(ctx, request.Room, []string{request.EventID})
	if err != nil {
		return a, err
	}
	if len(events) == 0 || !readable(events[0]) {
		return a, ErrEventNotFound
	}
	a.event = events[0]
	// No page has an event of a negative depth, but somebody may ask what it is.
	if at := (matrix.Token{Topological: a.event.Topological, Stream: a.event.Stream}); at.Topological >= 0 {
		a.start, _ = previous(at)
		a.end = at
	}

	before, after := timeline.PageQuery{Backwards: true, Limit: request.Limit / 2}, timeline.PageQuery{Limit: request.Limit - request.Limit/2}
	before.UpTo, after.After = new(matrix.NewPageToken(a.start)), new(matrix.NewPageToken(a.end))
	for _, query := range []*timeline.PageQuery{&before, &after} {
		query.Room, query.Filter = request.Room, request.Filter.events
		if request.Filter.excludes(request.Room) {
			query.Limit = 0
		}
	}
	pages, err := snapshot.Pages(ctx, before, after)
	if err != nil {
		return a, err
	}
	if last := pages[0].Last; last != nil {
		if place, ok := previous(*last); ok {
			a.start = place
		}
	}
	if last := pages[1].Last; last != nil {
		a.end = *last
	}
	a.before, a.after = request.Filter.passing(pages[0].Events), request.Filter.passing(pages[1].Events)

	last := a.event
	if len(a.after) > 0 {
		last = a.after[len(a.after)-1]
	}
	if last.StateGroup == nil {
		return a, nil
	}
	var members []string
	if request.Filter.lazy {
		members = a.senders()
	}
	ids, err := snapshot.WholeState(ctx, *last.StateGroup, members, maxContextState)
	if err == nil && len(ids) > 0 {
		a.state, err = snapshot.EventsOf(ctx, request.Room, ids)
	}
	return a, err
}

// senders are those whose events are shown, each once.
func (a around) senders() []string {
	senders := []string{a.event.Sender}
	for _, event := range slices.Concat(a.before, a.after) {
		senders = append(senders, event.Sender)
	}
	slices.Sort(senders)
	return slices.Compact(senders)
}

// showAround renders what was selected.
func showAround(ctx context.Context, snapshot *timeline.Snapshot, request ContextRequest, a around) (EventContext, error) {
	found := EventContext{Start: matrix.NewPageToken(a.start), End: matrix.NewPageToken(a.end)}
	as := Request{
		Room: request.Room, Reader: request.Reader, All: true, Limit: request.Limit, Filter: request.Filter,
		Raw: request.Raw || request.Filter.federation,
	}
	var event []json.RawMessage
	for _, part := range []struct {
		events []timeline.Event
		into   *[]json.RawMessage
	}{
		{[]timeline.Event{a.event}, &event}, {a.before, &found.Before}, {a.after, &found.After}, {a.state, &found.State},
	} {
		*part.into = []json.RawMessage{}
		if len(part.events) == 0 {
			continue
		}
		rendered, err := render(ctx, snapshot, as, shownToAll(part.events))
		if err != nil {
			return EventContext{}, err
		}
		if len(rendered) > 0 {
			*part.into = rendered
		}
	}
	if len(event) == 0 {
		return EventContext{}, ErrEventNotFound
	}
	found.Event = event[0]
	return found, nil
}
