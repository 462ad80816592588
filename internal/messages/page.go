package messages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

const (
	// maxLimit is the most rows of a page.
	maxLimit = 1000

	// backfillTime bounds how long a page waits for history of other servers.
	backfillTime = 20 * time.Second
)

// Page returns a page of a room's timeline. If other servers have history that
// belongs there, and the page shows a gap, it first asks for that, for at most 20 s;
// if nothing comes the page is what there is. It never asks for history that the
// page does not lack.
//
// Errors are [ErrForbidden], [lock.ErrTaken] if a purge does not let readers in, and
// those of the database.
func (m *Messages) Page(ctx context.Context, request Request) (Page, error) {
	request.Limit = min(max(request.Limit, 0), maxLimit)
	request.Raw = request.Raw || request.Filter.federation
	page, gap, err := m.page(ctx, request, m.options.Backfill != nil)
	if err == nil && gap != nil {
		m.backfill(ctx, request, *gap)
		// The page begins where it would have begun.
		request.From = gap
		page, _, err = m.page(ctx, request, false)
	}
	if err != nil {
		return Page{}, fmt.Errorf("page through a room: %w", err)
	}
	return page, nil
}

// page makes a page of one picture of the room. If gaps says so and the page has one
// that other servers may fill, it returns where they are to begin instead: at the
// place that was asked for, whatever the reader may see.
func (m *Messages) page(ctx context.Context, request Request, gaps bool) (page Page, gap *matrix.PageToken, err error) {
	err = m.read(ctx, request.Room, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		read, access, err := m.readPage(ctx, snapshot, request)
		if err != nil {
			return err
		}
		selected, err := selectPage(ctx, snapshot, request, access.left, read)
		if err != nil {
			return err
		}
		if gaps && request.Backwards && selected.gap(request.Limit) {
			if has, err := snapshot.HasGaps(ctx, request.Room); err != nil {
				return err
			} else if has {
				gap = &selected.asked
				return nil
			}
		}
		page, err = m.show(ctx, snapshot, request, access, selected)
		return err
	})
	return page, gap, err
}

// read calls with a picture of the room, beside other readers of it.
func (m *Messages) read(ctx context.Context, room string, with func(context.Context, *timeline.Snapshot) error) error {
	if m.options.Rooms != nil {
		leave, err := m.options.Rooms.Enter(ctx, room)
		if err != nil {
			return err
		}
		defer leave()
	}
	return timeline.Read(ctx, m.db, with)
}

// backfill asks for history. It is as well if none comes.
func (m *Messages) backfill(ctx context.Context, request Request, before matrix.PageToken) {
	waiting, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	err := m.options.Backfill.Backfill(waiting, request.Room, request.Reader, before, request.Limit)
	if err != nil && !errors.Is(err, ErrNotAsked) {
		m.options.Log.LogAttrs(ctx, slog.LevelWarn, "no history came from other servers",
			slog.String("room", request.Room), slog.Any("error", err))
	}
}

// A selection is what a page is made of.
type selection struct {
	// asked is where the reader asked to begin, start where the page does.
	asked, start matrix.PageToken

	// end is where the next page begins, nil if there is none.
	end *matrix.PageToken

	// events are those that are fit to be read.
	events []timeline.Event

	// complete says that no history of other servers could belong to it.
	complete bool
}

// readPage reads the events of a page, and how the reader may read the room: both in
// one round trip, unless the reader is not joined. One who may not read it gets
// [ErrForbidden], and none of the events is looked for.
func (m *Messages) readPage(ctx context.Context, snapshot *timeline.Snapshot, request Request) (timeline.Page, access, error) {
	query := m.query(request, nil)
	if !request.All {
		query.Reader = &request.Reader.UserID
	}
	pages, err := snapshot.Pages(ctx, query)
	if err != nil {
		return timeline.Page{}, access{}, err
	}
	if request.All || pages[0].Standing.Membership == "join" {
		return pages[0], access{}, nil
	}
	access, err := accessOf(pages[0].Standing)
	if err != nil {
		return timeline.Page{}, access, err
	}
	if pages, err = snapshot.Pages(ctx, m.query(request, access.left)); err != nil {
		return timeline.Page{}, access, err
	}
	return pages[0], access, nil
}

// query asks for the events of a page. One who has left the room, where left says,
// sees nothing beyond that place.
func (m *Messages) query(request Request, left *matrix.Token) timeline.PageQuery {
	query := timeline.PageQuery{
		Room:      request.Room,
		Backwards: request.Backwards,
		Filter:    request.Filter.events,
		Limit:     request.Limit,
		RoomEnd:   request.From == nil && request.Backwards,
		// Only what is hidden from readers, and who the senders were, is told by it.
		NoStateGroups: request.All && !request.Filter.lazy,
	}
	if request.Filter.excludes(request.Room) {
		query.Limit = 0
	}
	switch {
	case request.Backwards:
		query.After, query.UpTo = request.To, request.From
	case request.From != nil:
		query.After, query.UpTo = request.From, request.To
	default:
		query.After, query.UpTo = new(matrix.LivePageToken(0)), request.To
	}
	if request.Backwards || !m.options.DepartedSeeLater {
		query.Ceiling = left
	}
	return query
}

// selectPage decides where the page that was read begins and where the next one does.
// What the filter and the reader's rights hide comes after that: a page of which nothing
// can be shown is not the last one.
func selectPage(ctx context.Context, snapshot *timeline.Snapshot, request Request, left *matrix.Token, read timeline.Page) (selection, error) {
	s := selection{complete: request.Filter.excludes(request.Room)}
	switch {
	case request.From != nil:
		s.asked = *request.From
	case request.Backwards:
		s.asked = matrix.NewPageToken(read.RoomEnd)
	default:
		s.asked = matrix.LivePageToken(0)
	}
	s.start = s.asked
	if left != nil && request.Backwards {
		later, err := isLater(ctx, snapshot, request.Room, s.asked, *left)
		if err != nil {
			return selection{}, err
		}
		if later {
			s.start = s.asked.Moved(*left)
		}
	}
	if request.To != nil && (request.Backwards && reaches(s.start, *request.To) || !request.Backwards && reaches(*request.To, s.start)) {
		s.complete = true
		return s, nil
	}
	s.events = read.Events
	s.end = endOf(request, s.start, read)
	return s, nil
}

// endOf returns where the page after the one that was read begins: nil if nothing
// was, and nothing is left to be.
func endOf(request Request, start matrix.PageToken, read timeline.Page) *matrix.PageToken {
	switch {
	case request.Limit == 0:
		return &start
	case read.Last == nil || !read.More && !slices.ContainsFunc(read.Events, readable):
		return nil
	}
	end := *read.Last
	if request.Backwards {
		var ok bool
		if end, ok = previous(end); !ok {
			return nil
		}
	}
	return new(start.Moved(end))
}

// previous returns the place just before an event at the given one, false if nothing
// can be there.
func previous(at matrix.Token) (matrix.Token, bool) {
	switch {
	case at.Stream > math.MinInt64:
		return matrix.Token{Topological: at.Topological, Stream: at.Stream - 1}, true
	case at.Topological > 0:
		return matrix.Token{Topological: at.Topological - 1, Stream: math.MaxInt64}, true
	}
	return matrix.Token{}, false
}

// readable reports whether the event's JSON is an object.
func readable(event timeline.Event) bool {
	for _, c := range event.JSON {
		switch c {
		case ' ', '\t', '\r', '\n':
		case '{':
			return json.Valid(event.JSON)
		default:
			return false
		}
	}
	return false
}

// isLater reports whether a place is deeper than the event by which a reader left. The
// depth of a live token is the least of what arrived after it.
func isLater(ctx context.Context, snapshot *timeline.Snapshot, room string, place matrix.PageToken, left matrix.Token) (bool, error) {
	if at, historic := place.Historic(); historic {
		return left.Topological < at.Topological, nil
	}
	arrived, err := snapshot.ArrivedBelow(ctx, room, left.Topological, place.Stream())
	return !arrived, err
}

// reaches reports whether a place is at another one or before it: by depth if both
// know theirs, else by arrival.
func reaches(place, other matrix.PageToken) bool {
	a, historicA := place.Historic()
	b, historicB := other.Historic()
	if historicA && historicB {
		return a.Topological < b.Topological || a.Topological == b.Topological && a.Stream <= b.Stream
	}
	return place.Stream() <= other.Stream()
}

const (
	// wideGap is the distance of two events' depths that speaks of events between
	// them, and fewGaps how many smaller ones do not.
	wideGap = 2
	fewGaps = 3
)

// gap reports whether a page backwards seems to lack events: it has fewer than asked
// for, or their depths do not follow each other.
func (s selection) gap(limit int) bool {
	if s.complete || len(s.events) < limit {
		return !s.complete
	}
	depths := make([]int64, len(s.events))
	for i, event := range s.events {
		depths[i] = event.Topological
	}
	slices.Sort(depths)
	gaps := 0
	for i := 1; i < len(depths); i++ {
		switch distance := depths[i] - depths[i-1]; {
		case distance > wideGap:
			return true
		case distance > 1:
			gaps++
		}
	}
	return gaps > fewGaps
}

// show makes the page of what was selected.
func (m *Messages) show(ctx context.Context, snapshot *timeline.Snapshot, request Request, access access, selected selection) (Page, error) {
	page := Page{Chunk: []json.RawMessage{}, Start: selected.start, End: selected.end}
	events := request.Filter.passing(selected.events)
	if len(events) == 0 {
		return page, nil
	}
	var chunk []shown
	if request.All {
		chunk = shownToAll(events)
	} else {
		var err error
		if chunk, err = m.visible(ctx, snapshot, request.Room, request.Reader, access, events); err != nil {
			return Page{}, err
		}
	}
	if len(chunk) == 0 {
		return page, nil
	}
	rendered, err := render(ctx, snapshot, request, chunk)
	if err != nil {
		return Page{}, err
	}
	if len(rendered) > 0 {
		page.Chunk = rendered
	}
	if request.Filter.lazy {
		if page.State, err = lazyMembers(ctx, snapshot, request, chunk); err != nil {
			return Page{}, err
		}
	}
	return page, nil
}

// shownToAll are the events as those see them from whom nothing is hidden.
func shownToAll(events []timeline.Event) []shown {
	chunk := make([]shown, len(events))
	for i, event := range events {
		chunk[i].Event = event
	}
	return chunk
}
