package messages

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"sync"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// A view is what a page's reader sees of the room. The zero view has everything.
type view struct {
	// ceiling is the last place that the reader may read, nil if there is no such place.
	ceiling *matrix.Token

	// visible returns the events that the reader may see. It is nil if nothing is hidden.
	visible func(ctx context.Context, events []timeline.Event) ([]shown, error)
}

// of returns the events that are in the view.
func (v view) of(ctx context.Context, events []timeline.Event) ([]shown, error) {
	if v.visible == nil {
		return allShown(events), nil
	}
	return v.visible(ctx, events)
}

// render is renderIn for a reader from whom nothing is hidden.
func render(ctx context.Context, snapshot *timeline.Snapshot, request Request, events []shown) ([]json.RawMessage, error) {
	return renderIn(ctx, snapshot, request, events, view{})
}

// renderIn writes the events for clients, with the bundled aggregations that are in the
// view. It leaves out events that cannot be read.
//
// It queries the database once if other events relate to some of the events, or if some
// are state events that replaced others. It queries it again for the aggregations of the
// latest replies of threads, and again for who may see all of these.
func renderIn(ctx context.Context, snapshot *timeline.Snapshot, request Request, events []shown, view view) ([]json.RawMessage, error) {
	memory := scratches.Get().(*scratch)
	defer memory.release()
	readable, size := memory.readShown(events)
	b, err := readBundles(ctx, snapshot, &request, readable, view)
	if err != nil {
		return nil, err
	}
	format := Format{Room: request.Room, Reader: request.Reader, Raw: request.Raw, Now: now(), anonymous: request.anonymous}
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
		if !ok || !e.isWhole() {
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
	events, err := snapshot.Events(ctx, request.Room, ids)
	if err != nil {
		return nil, err
	}
	members := make([]shown, 0, len(ids))
	for _, id := range ids {
		if event, ok := events[id]; ok {
			members = append(members, shown{Event: event})
		}
	}
	return render(ctx, snapshot, Request{Room: request.Room, Reader: request.Reader, Raw: request.Raw}, members)
}

// A relation is the kind of relation to another event that an event has in its content.
type relation int

const (
	noRelation relation = iota
	someRelation

	// closedRelation is the relation of an annotation or an edit. Relations to such an
	// event do not count.
	closedRelation
)

// relation returns the relation of the event, as its reader sees it.
func (e *readEvent) relation() relation {
	if e.redacted {
		return noRelation // a redaction removes it
	}
	// Most events have none, so this is checked first.
	raw := e.fields.Get("content")
	if !bytes.Contains(raw, []byte("m.relates_to")) && !bytes.Contains(raw, []byte(`\u`)) {
		return noRelation
	}
	content, ok := matrix.SplitObject(nil, raw)
	if !ok {
		return noRelation
	}
	relates, ok := matrix.SplitObject(nil, content.Get("m.relates_to"))
	kind := relates.Get("rel_type")
	if !ok || !isString(kind) || !isString(relates.Get("event_id")) {
		return noRelation
	}
	if matrix.Says(kind, "m.annotation") || matrix.Says(kind, "m.replace") {
		return closedRelation
	}
	return someRelation
}

// bundles are the bundled aggregations and the replaced state of a page's events.
type bundles struct {
	timeline.Bundles

	// erased has the ids of bundled events that are shown redacted, because their senders
	// were erased.
	erased map[string]bool
}

// readBundles reads the bundles of the events that are in the view.
func readBundles(ctx context.Context, snapshot *timeline.Snapshot, request *Request, events []readableEvent, view view) (b bundles, err error) {
	asked := timeline.BundleQuery{
		Room: request.Room, Reader: request.Reader.UserID, Ignorer: request.Reader.UserID, Ceiling: view.ceiling,
	}
	if request.All {
		asked.Ignorer = "" // nothing is hidden
	}
	for i := range events {
		e := &events[i].readEvent
		if e.isState() {
			if id := e.replacedState(); id != "" {
				asked.Replaced = append(asked.Replaced, id)
			}
			continue
		}
		if e.Related == (timeline.Related{}) {
			continue
		}
		relation := e.relation()
		if relation == closedRelation {
			continue
		}
		if e.Related.Thread && relation == noRelation {
			asked.Roots = append(asked.Roots, e.ID)
		}
		if e.Related.Referenced {
			asked.Parents = append(asked.Parents, e.ID)
		}
		if e.Related.Edited && !e.redacted {
			asked.Originals = append(asked.Originals, e.ID)
		}
	}
	if b.Bundles, err = snapshot.Bundles(ctx, asked); err != nil {
		return b, err
	}
	// The latest reply of a thread is shown with its own aggregations, except threads.
	asked.Replaced, asked.Roots, asked.Parents, asked.Originals = nil, nil, nil, nil
	for _, thread := range b.Threads {
		if thread.Latest.Related.Referenced {
			asked.Parents = append(asked.Parents, thread.Latest.ID)
		}
		if thread.Latest.Related.Edited && thread.Latest.RedactedBy == nil {
			asked.Originals = append(asked.Originals, thread.Latest.ID)
		}
	}
	ofReplies, err := snapshot.Bundles(ctx, asked)
	if err != nil {
		return b, err
	}
	maps.Copy(b.References, ofReplies.References)
	maps.Copy(b.Edits, ofReplies.Edits)
	return b, b.hide(ctx, snapshot, request.Room, view)
}

// maxChecked is the number of bundled events that are in memory at a time. The answers to
// a poll may be many more.
const maxChecked = 500

// hide removes the bundled events that are not in the view, and threads whose latest
// reply is not. Replies count in any case.
func (b *bundles) hide(ctx context.Context, snapshot *timeline.Snapshot, room string, view view) error {
	if view.visible == nil {
		return nil
	}
	ids := slices.Concat(slices.Collect(maps.Values(b.References))...)
	for _, edit := range b.Edits {
		ids = append(ids, edit.ID)
	}
	for _, thread := range b.Threads {
		ids = append(ids, thread.Latest.ID)
	}
	seen := map[string]bool{}
	b.erased = map[string]bool{}
	for some := range slices.Chunk(distinct(ids), maxChecked) {
		events, err := snapshot.EventsOf(ctx, room, some, timeline.EventFilter{})
		if err != nil {
			return err
		}
		visible, err := view.of(ctx, events)
		if err != nil {
			return err
		}
		for _, event := range visible {
			seen[event.ID] = true
			b.erased[event.ID] = event.erased
		}
	}
	maps.DeleteFunc(b.Threads, func(_ string, thread timeline.Thread) bool { return !seen[thread.Latest.ID] })
	// An edit of an event that is shown redacted would tell what it said.
	maps.DeleteFunc(b.Edits, func(original string, edit timeline.Event) bool { return !seen[edit.ID] || b.erased[original] })
	for parent, children := range b.References {
		b.References[parent] = slices.DeleteFunc(children, func(id string) bool { return !seen[id] })
	}
	return nil
}

// readShown reads a bundled event as its reader sees it. It reports false if the event
// cannot be read.
func (b *bundles) readShown(event *timeline.Event) (readEvent, bool) {
	e, _, ok := read(event, nil)
	if b.erased[event.ID] {
		e.redacted, e.erased = true, true
	}
	return e, ok && e.isWhole()
}

// append appends the aggregations of an event to dst, as a JSON object. It appends
// nothing if there are no aggregations.
func (b *bundles) append(dst []byte, f *Format, e *readEvent) []byte {
	references := b.References[e.ID]
	edit, edited := b.Edits[e.ID]
	thread, threaded := b.Threads[e.ID]
	if len(references) == 0 && !edited && !threaded {
		return dst
	}
	begin := len(dst)
	dst = append(dst, '{')
	if len(references) > 0 {
		dst = append(dst, `"m.reference":{"chunk":[`...)
		for i, id := range references {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendText(append(dst, `{"event_id":`...), id), '}')
		}
		dst = append(dst, `]},`...)
	}
	if edited {
		if e, ok := b.readShown(&edit); ok {
			dst = append(f.append(append(dst, `"m.replace":`...), &e, &extras{}), ',')
		}
	}
	if threaded {
		dst = b.appendThread(dst, f, e, &thread)
	}
	if dst[len(dst)-1] == '{' {
		return dst[:begin]
	}
	dst[len(dst)-1] = '}' // instead of the last comma
	return dst
}

// appendThread appends the field of a thread and a comma. It appends nothing if the
// latest reply cannot be read.
func (b *bundles) appendThread(dst []byte, f *Format, root *readEvent, thread *timeline.Thread) []byte {
	latest, ok := b.readShown(&thread.Latest)
	if !ok {
		return dst
	}
	own := bundles{Bundles: timeline.Bundles{References: b.References, Edits: b.Edits}, erased: b.erased}
	dst = append(dst, `"m.thread":{"latest_event":`...)
	dst = f.append(dst, &latest, &extras{relations: own.append(nil, f, &latest)})
	dst = append(dst, `,"count":`...)
	dst = strconv.AppendInt(dst, thread.Count, 10)
	dst = append(dst, `,"current_user_participated":`...)
	participated := thread.Participated || matrix.Says(root.fields.Get("sender"), f.Reader.UserID)
	return append(strconv.AppendBool(dst, participated), `},`...)
}
