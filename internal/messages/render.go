package messages

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// render makes of the events what clients get, bundled aggregations included. An
// event that cannot be read is left out.
//
// It asks the database only for a page of which others relate to some events, or of
// which state events replaced others, and then once; once more if what relates to the
// latest replies of threads is to be shown too.
func render(ctx context.Context, snapshot *timeline.Snapshot, request Request, events []shown) ([]json.RawMessage, error) {
	memory := scratches.Get().(*scratch)
	defer memory.done()
	readable, size := memory.readShown(events)
	b, err := readBundles(ctx, snapshot, &request, readable)
	if err != nil {
		return nil, err
	}
	format := Format{Room: request.Room, Reader: request.Reader, Raw: request.Raw, Now: now()}
	return format.page(readable, &b, size), nil
}

// A scratch is memory for the events of a page while it is rendered. A page needs much
// of it, and nothing of what is put there outlives it.
type scratch struct {
	fields matrix.Object
	events []readableEvent
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// mostFields bounds the memory that is kept: a page of 1000 events has about so many.
const mostFields = 1 << 14

// done gives the memory back, without what it refers to.
func (s *scratch) done() {
	if cap(s.fields) > mostFields {
		return
	}
	clear(s.fields)
	clear(s.events)
	scratches.Put(s)
}

// A readableEvent is an event of a page that could be read.
type readableEvent struct {
	readEvent
	membership string
}

// readShown reads those events that can be read. Size is about how many bytes
// they take when they are written.
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
		// Signatures and hashes go, and what is said of it comes.
		size += len(event.JSON) + 2*len(event.Redaction)
	}
	s.events, s.fields = readable, fields
	return readable, size
}

// page writes the events, all into one piece of memory.
func (f *Format) page(events []readableEvent, b *bundles, size int) []json.RawMessage {
	var relations []byte
	page := make([]json.RawMessage, 0, len(events))
	text := make([]byte, 0, size)
	for i := range events {
		e := &events[i]
		with := company{membership: e.membership}
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

// lazyMembers returns the member events of the senders of the chunk, of the
// state at its first event; nil if there are none.
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
	// Clients get them as events of their own, whatever the chunk is.
	return render(ctx, snapshot, Request{Room: request.Room, Reader: request.Reader}, members)
}
