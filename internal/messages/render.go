package messages

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math"
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

	// children are the events that relate to those that are rendered. They are nil if they
	// are not known.
	children *timeline.Children
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
	done, err := renderWithin(ctx, snapshot, request, events, view, bounds{})
	return done.events, err
}

// bounds are the bounds of what is rendered at a time. The zero bounds have no effect.
type bounds struct {
	// written is the size in bytes that ends what is written: the event that would exceed
	// it is left for the next time. mayBeNone says that even the first event may be left.
	written   int
	mayBeNone bool

	// bytes is the bound of each kind of [timeline.Bundles], and rows that of the events
	// that relate to others.
	bytes, rows int
}

// A rendering is a part of a page.
type rendering struct {
	// events are the written events, and memory is how many bytes they keep.
	events []json.RawMessage
	memory int

	// last is the place of the last of the written events, nil if all are written. full
	// says that none is written because the first one would exceed the bound.
	last *timeline.Event
	full bool
}

// renderWithin is renderIn within bounds. It writes at least one of the events, if one can
// be read, unless the bounds allow to write none.
func renderWithin(ctx context.Context, snapshot *timeline.Snapshot, request Request, events []shown, view view, within bounds) (rendering, error) {
	memory := scratches.Get().(*scratch)
	defer memory.release()
	format := Format{Room: request.Room, Reader: request.Reader, Raw: request.Raw, Now: now(), anonymous: request.anonymous}
	all, size := memory.readShown(&format, events)
	if within.written > 0 {
		size = min(size, within.written+maxSlack)
	}
	readable, b, err := readBundles(ctx, snapshot, &request, all, bundleView{view, within})
	if err != nil {
		return rendering{}, err
	}
	written, kept := format.page(readable, &b, size, within)
	done := rendering{events: written, memory: kept}
	switch n := len(written); {
	case n == 0:
		done.full = len(all) > 0
	case n < len(all):
		done.last = &placesOf([]timeline.Event{*all[n-1].Event})[0]
	}
	return done, nil
}

// maxSlack is how much more memory than its bound is taken for what is written, so that
// the last event fits.
const maxSlack = 64 << 10

// A scratch is reused memory for the events of a page while they are rendered. Nothing
// that refers to it outlives the rendering.
type scratch struct {
	fields matrix.Object
	events []readableEvent
	text   []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxPooledFields is the maximum number of fields in memory that is reused. A page of 1000
// events has about that many.
const maxPooledFields = 1 << 14

// release returns the memory for reuse, without references to the events.
func (s *scratch) release() {
	if cap(s.fields) > maxPooledFields || cap(s.text) > maxSlack {
		return
	}
	clear(s.fields)
	clear(s.events)
	scratches.Put(s)
}

// A readableEvent is an event of a page, and its reader's membership. An event with a plain
// has not been split into fields.
type readableEvent struct {
	readEvent
	membership string
	plain      *plain
}

// readShown reads the events, without those that cannot be read. Size is about the number
// of bytes that they need when they are written.
func (s *scratch) readShown(format *Format, events []shown) (readable []readableEvent, size int) {
	readable = slices.Grow(s.events[:0], len(events))
	fields := slices.Grow(s.fields[:0], 16*len(events))
	for i := range events {
		event := &events[i]
		if p := format.plainOf(event); p != nil {
			readable = append(readable, readableEvent{readEvent: readEvent{Event: &event.Event}, membership: event.membership, plain: p})
			size += len(p.id) + len(p.user) + len(p.rest) + len(format.Room) + 100 // for the ages and the membership
			continue
		}
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

// page writes the events into one piece of memory, whose size it returns. It ends before
// the event that would exceed the bound.
func (f *Format) page(events []readableEvent, b *bundles, size int, within bounds) (page []json.RawMessage, memory int) {
	var relations []byte
	page = make([]json.RawMessage, 0, len(events))
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
		if e.plain != nil {
			text = f.appendPlain(text, e.plain, e.membership)
		} else {
			text = f.append(text, &e.readEvent, &with)
		}
		if within.written > 0 && len(text) > within.written && (i > 0 || within.mayBeNone) {
			break
		}
		page = append(page, text[begin:len(text):len(text)])
	}
	return page, cap(text)
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
	members, _, err := membersAt(ctx, snapshot, request, *chunk[0].StateGroup, distinct(senders), bounds{})
	return members.events, err
}

// membersAt writes the memberships of users in the state of a group, in the order of the
// users. It reports false if they exceed the bounds.
func membersAt(ctx context.Context, snapshot *timeline.Snapshot, request Request, group int64, users []string,
	within bounds,
) (written rendering, fits bool, err error) {
	ids, err := snapshot.MembersAt(ctx, group, users)
	if err != nil || len(ids) == 0 {
		return written, true, err
	}
	events, cut, err := snapshot.EventsWithin(ctx, request.Room, ids, cmp.Or(within.bytes, math.MaxInt))
	if err != nil || len(cut) > 0 {
		return written, false, err
	}
	members := make([]shown, 0, len(ids))
	for _, id := range ids {
		if event, ok := events[id]; ok {
			members = append(members, shown{Event: event})
		}
	}
	as := Request{Room: request.Room, Reader: request.Reader, Raw: request.Raw}
	written, err = renderWithin(ctx, snapshot, as, members, view{}, within)
	return written, written.last == nil, err
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

// A bundleView is the view of bundles, and the bounds of what is read.
type bundleView struct {
	view
	within bounds
}

// readBundles reads the bundles of the events that are in the view. It returns the events
// whose bundles are within the bounds: those up to one, and at least the first.
func readBundles(ctx context.Context, snapshot *timeline.Snapshot, request *Request, events []readableEvent, view bundleView) (
	fit []readableEvent, b bundles, err error,
) {
	asked := timeline.BundleQuery{
		Room: request.Room, Reader: request.Reader.UserID, Ignorer: request.ignorer(), Ceiling: view.ceiling, Bytes: view.within.bytes,
		Children: view.children,
	}
	var related []*timeline.Event
	for i := range events {
		if !events[i].isState() && events[i].Related.Many {
			related = append(related, events[i].Event)
		}
	}
	rows, err := newRowCount(ctx, snapshot, view.within.rows, related)
	if err != nil {
		return nil, b, err
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
		if !rows.add(e.ID) {
			events = events[:i]
			break
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
		return nil, b, err
	}
	events = fitting(events, b.Cut)
	if err = b.addThoseOfReplies(ctx, snapshot, asked, events, view.within.rows); err != nil {
		return nil, b, err
	}
	return fitting(events, b.Cut), b, b.hide(ctx, snapshot, request.Room, view.view)
}

// addThoseOfReplies adds the aggregations of the latest replies of threads. They are shown
// with their own, except threads. A root whose reply's are not within the bounds is cut.
func (b *bundles) addThoseOfReplies(ctx context.Context, snapshot *timeline.Snapshot, asked timeline.BundleQuery, events []readableEvent, most int) error {
	asked.Replaced, asked.Roots, asked.Parents, asked.Originals, asked.Children = nil, nil, nil, nil, nil
	roots := map[string]string{}
	var replies []*timeline.Event
	for i := range events {
		if thread, ok := b.Threads[events[i].ID]; ok && (thread.Latest.Related.Referenced || thread.Latest.Related.Edited) {
			replies = append(replies, &thread.Latest)
			roots[thread.Latest.ID] = events[i].ID
		}
	}
	if len(replies) == 0 {
		return nil
	}
	rows, err := newRowCount(ctx, snapshot, most, replies)
	if err != nil {
		return err
	}
	for _, reply := range replies {
		if !rows.add(reply.ID) {
			b.Cut[roots[reply.ID]] = true
			break
		}
		if reply.Related.Referenced {
			asked.Parents = append(asked.Parents, reply.ID)
		}
		if reply.Related.Edited && reply.RedactedBy == nil {
			asked.Originals = append(asked.Originals, reply.ID)
		}
	}
	found, err := snapshot.Bundles(ctx, asked)
	if err != nil {
		return err
	}
	maps.Copy(b.References, found.References)
	maps.Copy(b.Edits, found.Edits)
	for id := range found.Cut {
		b.Cut[roots[id]] = true
	}
	return nil
}

// fitting returns the events up to one of which something was cut, and at least the first.
func fitting(events []readableEvent, cut map[string]bool) []readableEvent {
	if len(cut) == 0 {
		return events
	}
	for i := 1; i < len(events); i++ {
		if e := &events[i].readEvent; cut[e.ID] || e.isState() && cut[e.replacedState()] {
			return events[:i]
		}
	}
	return events
}

// A rowCount counts the events that must be read because they relate to the events of a
// page, up to a bound.
type rowCount struct {
	most, rows int // most is 0 for no bound
	of         map[string]timeline.RelatedCounts
}

// newRowCount returns a rowCount that knows how many events relate to the given ones.
func newRowCount(ctx context.Context, snapshot *timeline.Snapshot, most int, related []*timeline.Event) (*rowCount, error) {
	c := &rowCount{most: most}
	if most == 0 || len(related) == 0 {
		return c, nil
	}
	ids := make([]string, 0, len(related))
	for _, event := range related {
		ids = append(ids, event.ID)
	}
	var err error
	c.of, err = snapshot.CountRelated(ctx, ids)
	return c, err
}

// add adds what must be read for an event. It reports false, and adds nothing, if that
// would exceed the bound, unless nothing was added before.
func (c *rowCount) add(id string) bool {
	n := c.of[id]
	rows := n.References + n.Edits + n.Replies
	if c.most > 0 && rows > 0 && c.rows > 0 && c.rows+rows > c.most {
		return false
	}
	c.rows += rows
	return true
}

// maxChecked is the number of bundled events that are in memory at a time. The answers to
// a poll may be many more.
const maxChecked = 200

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
		events, err := snapshot.OutlinesOf(ctx, room, some, view.children)
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
