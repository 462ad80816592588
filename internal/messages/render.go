package messages

import (
	"context"
	"encoding/json"
	"slices"

	"lethe/internal/matrix"
	"lethe/internal/store"
)

// A parent is an event of a page that others may relate to.
type parent struct {
	*readEvent

	// root says that a thread may hang on it.
	root bool
}

// render makes of the events what clients get, bundled aggregations included. An
// event that cannot be read is left out.
//
// It asks the database once for a page, and not at all for one without messages
// and without state that replaced other; where events relate to those of the page
// it asks once more, and twice if there are threads.
func render(ctx context.Context, snapshot *store.Snapshot, request Request, events []shown) ([]json.RawMessage, error) {
	var replaced, ids []string
	readable, size := readShown(events)
	parents := make([]parent, 0, len(readable))
	for i := range readable {
		e := &readable[i].readEvent
		if e.isState() {
			if id := e.replacedState(); id != "" {
				replaced = append(replaced, id)
			}
			continue
		}
		if relation := e.relation(); relation != closedRelation {
			parents = append(parents, parent{readEvent: e, root: relation == noRelation})
			ids = append(ids, e.ID)
		}
	}
	previous, related, err := snapshot.Beside(ctx, replaced, ids)
	if err != nil {
		return nil, err
	}
	b, err := readBundles(ctx, snapshot, &request, parents, related)
	if err != nil {
		return nil, err
	}
	format := Format{Room: request.Room, Reader: request.Reader, Raw: request.Raw, Now: now()}
	return format.page(readable, previous, &b, size), nil
}

// A readableEvent is an event of a page that could be read.
type readableEvent struct {
	readEvent
	membership string
}

// readShown reads those events that can be read. Size is about how many bytes
// they take when they are written.
func readShown(events []shown) (readable []readableEvent, size int) {
	readable = make([]readableEvent, 0, len(events))
	space := make(matrix.Object, 0, 16*len(events))
	for i := range events {
		event := &events[i]
		e, used, ok := read(&event.TimelineEvent, space)
		space = used
		if !ok {
			continue
		}
		if event.erased {
			e.redacted, e.erased = true, true
		}
		readable = append(readable, readableEvent{readEvent: e, membership: event.membership})
		size += len(event.JSON) + 2*len(event.Redaction) + 512
	}
	return readable, size
}

// page writes the events, all into one piece of memory.
func (f *Format) page(events []readableEvent, previous map[string]store.TimelineEvent, b *bundles, size int) []json.RawMessage {
	var relations []byte
	page := make([]json.RawMessage, 0, len(events))
	text := make([]byte, 0, size)
	for i := range events {
		e := &events[i]
		with := company{membership: e.membership}
		if id := e.replacedState(); id != "" {
			if event, ok := previous[id]; ok {
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
func lazyMembers(ctx context.Context, snapshot *store.Snapshot, request Request, chunk []shown) ([]json.RawMessage, error) {
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
			members = append(members, shown{TimelineEvent: event})
		}
	}
	readable, size := readShown(members)
	var replaced []string
	for i := range readable {
		if id := readable[i].replacedState(); id != "" {
			replaced = append(replaced, id)
		}
	}
	previous, _, err := snapshot.Beside(ctx, replaced, nil)
	if err != nil {
		return nil, err
	}
	// Clients get them as events of their own, whatever the chunk is.
	format := Format{Room: request.Room, Reader: request.Reader, Now: now()}
	return format.page(readable, previous, &bundles{}, size), nil
}
