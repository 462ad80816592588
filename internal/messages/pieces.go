package messages

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

const (
	// pieceBytes bounds each kind of JSON that is read for one piece of a page: that of the
	// events, of what they are shown with, and of the memberships.
	pieceBytes = 256 << 10

	// pieceMemory is about the largest memory that a piece takes while it is made.
	pieceMemory = 8 * pieceBytes

	// pieceRows bounds how many events are read for one piece because they relate to its
	// events.
	pieceRows = 10_000

	// pageTime is how long pieces are added to a page.
	pageTime = 5 * time.Second
)

// pieces make a page. Usually it has one piece. A page with large events is read piece by
// piece, each of which is written before the next one is read, so that the memory that a
// page takes does not depend on what is in the database.
type pieces struct {
	m        *Messages
	snapshot *timeline.Snapshot
	request  Request
	findGap  bool
	share    *share

	access   access
	view     view
	selected selection
	made     Page

	// read has the places of the events that the page has read.
	read []timeline.Event

	// written is the size of the page in bytes, and memory how many it keeps.
	written, memory int

	// group is the state group of the first event that is shown, and members are the
	// senders whose memberships in it are written. group is nil before that event, and if it
	// has none.
	group   *int64
	members map[string]bool
	begun   bool
}

// page makes the page, or returns the token before a gap: see [Messages.page].
func (p *pieces) page(ctx context.Context) (page Page, gap *matrix.PageToken, err error) {
	end := time.Now().Add(pageTime)
	if !p.share.resize(pieceMemory) {
		return Page{}, nil, ErrBusy
	}
	read, err := p.first(ctx)
	if err != nil {
		return Page{}, nil, err
	}
	place := read.Last
	for rest := p.request.Limit; ; {
		before := place
		if read.Last != nil {
			place = read.Last
		}
		places := placesOf(read.Events)
		p.read = append(p.read, places...)
		more := read.More && read.Rows < rest
		if !more {
			if len(p.read) > len(places) {
				p.made.End = p.endAt(place)
			}
			// Before anything is rendered that may not be needed.
			if gap, err := p.gap(ctx, p.request.Limit); gap != nil || err != nil {
				return Page{}, gap, err
			}
		}
		p.view.children = read.Children
		last, full, err := p.add(ctx, read.Events)
		switch {
		case err != nil:
			return Page{}, nil, err
		case !more && last == nil && !full:
			p.share.set(p.memory)
			return p.made, nil, nil
		case last != nil:
			used := 1 + slices.IndexFunc(places, func(e timeline.Event) bool { return e.ID == last.ID })
			p.read = p.read[:len(p.read)-len(places)+used]
			place, rest = &matrix.Token{Topological: last.Topological, Stream: last.Stream}, rest-used
		case full:
			p.read = p.read[:len(p.read)-len(places)]
			place = before
		default:
			rest -= read.Rows
		}
		if full || p.written >= p.m.options.MaxPageBytes || time.Now().After(end) || !p.share.resize(p.memory+pieceMemory) {
			p.made.End = p.endAt(place)
			gap, err := p.gap(ctx, len(p.read)) // the page ends here, not the history
			if gap == nil && err == nil {
				p.share.set(p.memory)
			}
			return p.made, gap, err
		}
		if read, err = p.next(ctx, *place, min(rest, 10+2*read.Rows)); err != nil {
			return Page{}, nil, err
		}
	}
}

// first reads the first piece, which decides where the page begins.
func (p *pieces) first(ctx context.Context) (read timeline.Page, err error) {
	if read, p.access, err = p.m.readPage(ctx, p.snapshot, p.request); err != nil {
		return read, err
	}
	if p.selected, err = selectPage(ctx, p.snapshot, p.request, p.access.left, read); err != nil {
		return read, err
	}
	p.made = Page{Chunk: []json.RawMessage{}, Start: p.selected.start, End: p.selected.end}
	p.members = map[string]bool{}
	if !p.request.All {
		p.view.ceiling = p.m.ceiling(p.request, p.access.left)
		seen := &sight{m: p.m, snapshot: p.snapshot, room: p.request.Room, reader: p.request.Reader, access: p.access}
		p.view.visible = func(ctx context.Context, events []timeline.Event) ([]shown, error) {
			return seen.visible(ctx, events, p.view.children)
		}
	}
	if p.selected.complete {
		return timeline.Page{Events: p.selected.events}, nil
	}
	return read, nil
}

// next reads the piece after a place.
func (p *pieces) next(ctx context.Context, place matrix.Token, limit int) (timeline.Page, error) {
	query := p.m.query(p.request, p.access.left)
	query.Limit, query.RoomEnd = limit, false
	if p.request.Backwards {
		before, ok := previous(place)
		if !ok {
			return timeline.Page{}, nil
		}
		query.Ceiling = &before
	} else {
		query.Floor = &place
	}
	read, err := p.snapshot.Pages(ctx, query)
	if err != nil {
		return timeline.Page{}, err
	}
	return read[0], nil
}

// endAt returns the token of the page that follows a place.
func (p *pieces) endAt(place *matrix.Token) *matrix.PageToken {
	return endOf(p.request, p.selected.start, timeline.Page{Last: place, More: true})
}

// gap returns the token at which the request begins if the page has a gap that other servers
// may fill.
func (p *pieces) gap(ctx context.Context, limit int) (*matrix.PageToken, error) {
	whole := selection{complete: p.selected.complete, events: p.read}
	if !p.findGap || !p.request.Backwards || !whole.gap(limit) {
		return nil, nil
	}
	if has, err := p.snapshot.HasGaps(ctx, p.request.Room); err != nil || !has {
		return nil, err
	}
	return &p.selected.asked, nil
}

// add adds what the reader sees of a piece to the page. If that is not all, it returns the
// last event that was added, or, if nothing was, that the page is full.
func (p *pieces) add(ctx context.Context, events []timeline.Event) (last *timeline.Event, full bool, err error) {
	events = p.request.Filter.passing(events)
	if len(events) == 0 {
		return nil, false, nil
	}
	chunk, err := p.view.of(ctx, events)
	if err != nil || len(chunk) == 0 {
		return nil, false, err
	}
	if !p.begun {
		p.begun, p.group = true, chunk[0].StateGroup
	}
	within := p.m.piece
	within.written, within.mayBeNone = max(1, p.m.options.MaxPageBytes-p.written), len(p.made.Chunk) > 0
	for {
		done, err := renderWithin(ctx, p.snapshot, p.request, chunk, p.view, within)
		if err != nil {
			return nil, false, err
		}
		if done.full {
			return nil, true, nil
		}
		part := chunk
		if done.last != nil {
			last = done.last
			part = chunk[:1+slices.IndexFunc(chunk, func(s shown) bool { return s.ID == last.ID })]
		}
		fits, err := p.addMembers(ctx, part)
		if err != nil {
			return nil, false, err
		}
		if !fits {
			chunk = chunk[:(len(part)+1)/2]
			last = &placesOf([]timeline.Event{chunk[len(chunk)-1].Event})[0]
			continue
		}
		p.made.Chunk = append(p.made.Chunk, done.events...)
		p.count(done)
		return last, false, nil
	}
}

// addMembers adds the memberships of senders that the page does not have yet, if the client
// loads them lazily. It reports false, and adds nothing, if they are too large for one
// piece, which those of one sender never are.
func (p *pieces) addMembers(ctx context.Context, chunk []shown) (fits bool, err error) {
	if !p.request.Filter.lazy || p.group == nil {
		return true, nil
	}
	var senders []string
	for i := range chunk {
		if !p.members[chunk[i].Sender] {
			senders = append(senders, chunk[i].Sender)
		}
	}
	senders = distinct(senders)
	if len(senders) == 0 {
		return true, nil
	}
	written, fits, err := membersAt(ctx, p.snapshot, p.request, *p.group, senders, bounds{bytes: p.m.piece.bytes})
	if err != nil || !fits && len(senders) > 1 {
		return false, err
	}
	for _, sender := range senders {
		p.members[sender] = true
	}
	p.made.State = append(p.made.State, written.events...)
	p.count(written)
	return true, nil
}

// count counts what was added to the page.
func (p *pieces) count(added rendering) {
	p.memory += added.memory
	for _, event := range added.events {
		p.written += len(event) + 1
	}
}

// placesOf returns the events with their ids and places only.
func placesOf(events []timeline.Event) []timeline.Event {
	places := make([]timeline.Event, len(events))
	for i, event := range events {
		places[i] = timeline.Event{ID: event.ID, Topological: event.Topological, Stream: event.Stream}
	}
	return places
}
