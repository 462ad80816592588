package messages

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// render writes the events for clients, with their bundled aggregations. It leaves out
// events that cannot be read.
//
// It queries the database once if other events relate to some of the events, or if some
// are state events that replaced others. It queries it again for the aggregations of the
// latest replies of threads.
func render(ctx context.Context, snapshot *timeline.Snapshot, request Request, events []shown) ([]json.RawMessage, error) {
	memory := scratches.Get().(*scratch)
	defer memory.release()
	readable, size := memory.readShown(events)
	b, err := readBundles(ctx, snapshot, &request, readable)
	if err != nil {
		return nil, err
	}
	format := Format{Room: request.Room, Reader: request.Reader, Raw: request.Raw, Now: now()}
	return format.page(readable, &b, size), nil
}

// A scratch is reused memory for the events of a page while they are rendered. Nothing
// that refers to it outlives the rendering.
type scratch struct {
	fields matrix.Object
	events []readableEvent
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxPooledFields is the maximum number of fields in memory that is reused. A page of 1000
// events has about that many.
const maxPooledFields = 1 << 14

// release returns the memory for reuse, without references to the events.
func (s *scratch) release() {
	if cap(s.fields) > maxPooledFields {
		return
	}
	clear(s.fields)
	clear(s.events)
	scratches.Put(s)
}

// A readableEvent is an event of a page, and its reader's membership.
type readableEvent struct {
	readEvent
	membership string
}

// readShown reads the events, without those that cannot be read. Size is about the number
// of bytes that they need when they are written.
func (s *scratch) readShown(events []shown) (readable []readableEvent, size int) {
	readable = slices.Grow(s.events[:0], len(events))
	fields := slices.Grow(s.fields[:0], 16*len(events))
	for i := range events {
		event := &events[i]
		e, used, ok := read(&event.Event, fields)
		fields = used
		if !ok {
			continue
		}
		if event.erased {
			e.redacted, e.erased = true, true
		}
		readable = append(readable, readableEvent{readEvent: e, membership: event.membership})
		// About as many bytes are added as signatures and hashes need.
		size += len(event.JSON) + 2*len(event.Redaction)
	}
	s.events, s.fields = readable, fields
	return readable, size
}

// page writes the events into one piece of memory.
func (f *Format) page(events []readableEvent, b *bundles, size int) []json.RawMessage {
	var relations []byte
	page := make([]json.RawMessage, 0, len(events))
	text := make([]byte, 0, size)
	for i := range events {
		e := &events[i]
		with := extras{membership: e.membership}
		if id := e.replacedState(); id != "" {
			if event, ok := b.Replaced[id]; ok {
				with.previous, _, _ = read(&event, nil)
			}
		}
		if relations = b.append(relations[:0], f, &e.readEvent); len(relations) > 0 {
			with.relations = relations
		}
		begin := len(text)
		text = f.append(text, &e.readEvent, &with)
		page = append(page, text[begin:len(text):len(text)])
	}
	return page
}

// lazyMembers returns the memberships of the chunk's senders, from the state at its first
// event. It is nil if there are no memberships.
func lazyMembers(ctx context.Context, snapshot *timeline.Snapshot, request Request, chunk []shown) ([]json.RawMessage, error) {
	if len(chunk) == 0 || chunk[0].StateGroup == nil {
		return nil, nil
	}
	senders := make([]string, 0, len(chunk))
	for i := range chunk {
		senders = append(senders, chunk[i].Sender)
	}
	slices.Sort(senders)
	ids, err := snapshot.MembersAt(ctx, *chunk[0].StateGroup, slices.Compact(senders))
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	events, err := snapshot.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	members := make([]shown, 0, len(ids))
	for _, id := range ids {
		if event, ok := events[id]; ok {
			members = append(members, shown{Event: event})
		}
	}
	// Clients get them in their own format, even if the chunk is raw.
	return render(ctx, snapshot, Request{Room: request.Room, Reader: request.Reader}, members)
}
