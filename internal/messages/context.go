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

// ErrEventNotFound is returned when the room has no such event, or it cannot be read.
var ErrEventNotFound = errors.New("the room has no such event")

// maxContextState is the maximum number of state events in a context. Memberships come
// last, and no real room has so many other state events.
const maxContextState = 10_000

// contextMemory is how much of the budget is taken while a context is made. Its three lists
// are read, and then written.
const contextMemory = 16 << 20

// A ContextRequest asks for an event and the events around it.
type ContextRequest struct {
	// Room is the id of the room, and EventID that of the event.
	Room, EventID string

	// Reader is the server admin who asks. Nothing is hidden from a server admin.
	Reader Reader

	// Limit is the maximum number of events around the event, from 0 to 1000. Half of
	// them are before it. If the limit is odd, there is one more after it. It has no
	// default.
	Limit int

	// Filter selects events around the event, and of the state. A filter that loads
	// members lazily keeps only the memberships of the senders. Defaults to the zero
	// Filter, which selects all.
	Filter Filter

	// Raw returns events as servers get them. Defaults to false.
	Raw bool

	// bytes is the bound of each list, 0 for none.
	bytes int
}

// An EventContext is the answer to a ContextRequest.
type EventContext struct {
	// Event is the event itself.
	Event json.RawMessage

	// Before are the events before the event, the newest first. After are the events
	// after it, the oldest first. Each ends early at [Options].MaxPageBytes.
	Before, After []json.RawMessage

	// State is the state of the room after the last of these events, with at most
	// 10,000 events, and up to the one that reaches [Options].MaxPageBytes. It is empty
	// if the state is not known.
	State []json.RawMessage

	// Start is the token from which the reader can page backwards, and End the token
	// from which the reader can page forwards.
	Start, End matrix.PageToken

	share *share // nil for no context
}

// Release gives the memory of the context back to the budget, as [Page.Release] does.
func (e *EventContext) Release() {
	if e.share != nil {
		e.share.resize(0)
	}
}

// Context returns an event and the events around it to a server admin. It requires no
// membership and hides nothing. The error is [ErrEventNotFound] if the room has no such
// event, if the event was rejected, or if it cannot be read, and [ErrBusy] if pages have
// taken the budget.
func (m *Messages) Context(ctx context.Context, request ContextRequest) (EventContext, error) {
	request.Limit = min(max(request.Limit, 0), maxLimit)
	request.bytes = m.options.MaxPageBytes
	var found EventContext
	taken := &share{budget: m.options.Budget}
	err := m.read(ctx, request.Room, nil, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		if !taken.resize(contextMemory) {
			return ErrBusy
		}
		around, err := selectContext(ctx, snapshot, request)
		if err != nil {
			return err
		}
		found, err = renderContext(ctx, snapshot, request, around)
		return err
	})
	if err != nil {
		taken.resize(0)
		return EventContext{}, fmt.Errorf("read an event's context: %w", err)
	}
	taken.set(found.size())
	found.share = taken
	return found, nil
}

// size returns the size of the events in bytes.
func (e *EventContext) size() int {
	size := len(e.Event)
	for _, event := range slices.Concat(e.Before, e.After, e.State) {
		size += len(event)
	}
	return size
}

// contextEvents has the events of an EventContext before they are rendered.
type contextEvents struct {
	event         timeline.Event
	before, after []timeline.Event
	state         []timeline.Event
	start, end    matrix.Token
}

// selectContext reads an event and the events around it.
func selectContext(ctx context.Context, snapshot *timeline.Snapshot, request ContextRequest) (contextEvents, error) {
	var a contextEvents
	events, err := snapshot.EventsOf(ctx, request.Room, []string{request.EventID}, timeline.EventFilter{})
	if err != nil {
		return a, err
	}
	if len(events) == 0 || !readable(events[0]) {
		return a, ErrEventNotFound
	}
	a.event = events[0]
	// An event of a negative depth is on no page, but may have a context.
	if at := (matrix.Token{Topological: a.event.Topological, Stream: a.event.Stream}); at.Topological >= 0 {
		a.start, _ = previous(at)
		a.end = at
	}

	before, after := timeline.PageQuery{Backwards: true, Limit: request.Limit / 2}, timeline.PageQuery{Limit: request.Limit - request.Limit/2}
	before.UpTo, after.After = new(matrix.NewPageToken(a.start)), new(matrix.NewPageToken(a.end))
	for _, query := range []*timeline.PageQuery{&before, &after} {
		query.Room, query.Filter, query.Bytes = request.Room, request.Filter.events, request.bytes
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
	if last.StateGroup == nil || request.Filter.excludes(request.Room) {
		return a, nil
	}
	var members []string
	if request.Filter.lazy {
		members = a.senders()
	}
	ids, err := snapshot.WholeState(ctx, *last.StateGroup, members, maxContextState)
	if err == nil {
		a.state, err = readState(ctx, snapshot, request, ids)
	}
	a.state = request.Filter.passing(a.state)
	return a, err
}

// stateAtOnce is the number of state events that are read before their size is looked at.
const stateAtOnce = 50

// readState reads events of a state until they have reached the bound of the request.
func readState(ctx context.Context, snapshot *timeline.Snapshot, request ContextRequest, ids []string) (state []timeline.Event, err error) {
	read := 0
	for some := range slices.Chunk(ids, stateAtOnce) {
		events, err := snapshot.EventsOf(ctx, request.Room, some, request.Filter.events)
		if err != nil {
			return nil, err
		}
		for _, event := range events {
			state = append(state, event)
			if read += len(event.JSON) + len(event.Redaction); request.bytes > 0 && read >= request.bytes {
				return state, nil
			}
		}
	}
	return state, nil
}

// senders returns the senders of the events, each once.
func (a contextEvents) senders() []string {
	senders := []string{a.event.Sender}
	for _, event := range slices.Concat(a.before, a.after) {
		senders = append(senders, event.Sender)
	}
	slices.Sort(senders)
	return slices.Compact(senders)
}

// renderContext renders the selected events.
func renderContext(ctx context.Context, snapshot *timeline.Snapshot, request ContextRequest, a contextEvents) (EventContext, error) {
	found := EventContext{Start: matrix.NewPageToken(a.start), End: matrix.NewPageToken(a.end)}
	as := Request{
		Room: request.Room, Reader: request.Reader, All: true, Limit: request.Limit, Filter: request.Filter,
		Raw: request.Raw, anonymous: true, // as Synapse, which also ignores the filter's event_format here
	}
	// Only in lists of state an outlier is shown without the state that it replaced.
	a.event.Outlier = false
	var event []json.RawMessage
	within := bounds{written: request.bytes, bytes: request.bytes}
	for _, part := range []struct {
		events []timeline.Event
		into   *[]json.RawMessage
		ends   func(last matrix.Token)
	}{
		{[]timeline.Event{a.event}, &event, nil},
		{a.before, &found.Before, func(last matrix.Token) {
			last, _ = previous(last) // there is one before it
			found.Start = matrix.NewPageToken(last)
		}},
		{a.after, &found.After, func(last matrix.Token) { found.End = matrix.NewPageToken(last) }},
		{a.state, &found.State, nil},
	} {
		*part.into = []json.RawMessage{}
		if len(part.events) == 0 {
			continue
		}
		rendered, err := renderWithin(ctx, snapshot, as, allShown(part.events), view{}, within)
		if err != nil {
			return EventContext{}, err
		}
		if len(rendered.events) > 0 {
			*part.into = rendered.events
		}
		if last := rendered.last; last != nil && part.ends != nil {
			part.ends(matrix.Token{Topological: last.Topological, Stream: last.Stream})
		}
	}
	if len(event) == 0 {
		return EventContext{}, ErrEventNotFound
	}
	found.Event = event[0]
	return found, nil
}
