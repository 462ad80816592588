package messages

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
	"lethe/internal/store/timeline"
)

const (
	// maxLimit is the maximum number of events on a page.
	maxLimit = 1000

	// backfillTime is the maximum time that a page waits for history of other servers.
	backfillTime = 20 * time.Second
)

// Page returns a page of a room's timeline. If the page has a gap, and other servers may
// have the missing history, Page first asks for it, for at most 20 s. If nothing comes,
// it returns the page with the gap.
//
// The page ends early if it reaches [Options].MaxPageBytes, if other pages have taken the
// rest of the budget, or if it has taken 5 s. It then has at least one event, unless the
// reader may see none of those that were read, and the next page continues there.
//
// The error is [ErrForbidden] if the reader may not read the room, [ErrBusy] if other pages
// have taken the whole budget, [lock.ErrTaken] if a purge keeps readers out for too long, or
// one of the database.
func (m *Messages) Page(ctx context.Context, request Request) (Page, error) {
	request.Limit = min(max(request.Limit, 0), maxLimit)
	request.Raw = request.Raw || request.Filter.federation
	page, gap, err := m.page(ctx, request, m.options.Backfill != nil)
	if err == nil && gap != nil {
		m.backfill(ctx, request, *gap)
		// The page begins at the same position as without the history.
		request.From = gap
		page, _, err = m.page(ctx, request, false)
	}
	if err != nil {
		return Page{}, fmt.Errorf("page through a room: %w", err)
	}
	return page, nil
}

// page makes a page in one snapshot. If findGap is set, and the page has a gap that other
// servers may fill, it returns the token at which the request begins instead of the page.
// That token does not depend on what the reader may see.
func (m *Messages) page(ctx context.Context, request Request, findGap bool) (page Page, gap *matrix.PageToken, err error) {
	taken := &share{budget: m.options.Budget}
	admit := func() error { return m.admit(ctx, request) }
	err = m.read(ctx, request.Room, admit, func(ctx context.Context, snapshot *timeline.Snapshot) error {
		made := pieces{m: m, snapshot: snapshot, request: request, findGap: findGap, share: taken}
		page, gap, err = made.page(ctx)
		return err
	})
	if err != nil || gap != nil {
		taken.resize(0)
		return Page{}, gap, err
	}
	page.share = taken
	return page, nil, nil
}

// admit refuses a reader who may not read the room before the request waits for the
// room's lease. The wait would show to strangers that the room is being purged, and their
// requests would keep the purge waiting. The page checks the access again, in its own
// snapshot.
func (m *Messages) admit(ctx context.Context, request Request) error {
	if request.All {
		return nil
	}
	reader, err := timeline.AccessOf(ctx, m.db, request.Room, request.Reader.UserID)
	if err != nil {
		return err
	}
	_, err = accessOf(reader)
	return err
}

// maxRoomID is the maximum length of a room id in bytes.
const maxRoomID = 255

// read calls with in a snapshot, with a lease of the room. If the request has to wait for
// the lease, admit is called before and may refuse it; it may be nil. An id that no room can
// have gets no lease, because it would become a key in Redis.
func (m *Messages) read(ctx context.Context, room string, admit func() error, with func(context.Context, *timeline.Snapshot) error) error {
	leave, entered := func() {}, m.options.Rooms == nil || !leasable(room)
	if !entered {
		leave, entered = m.options.Rooms.EnterNow(room)
	}
	if !entered {
		var err error
		if admit != nil {
			err = admit()
		}
		if err == nil {
			leave, err = m.options.Rooms.Enter(ctx, room)
		}
		if err != nil {
			return err
		}
	}
	defer leave()
	return timeline.ReadWith(ctx, m.db, m.cache, with)
}

// leasable reports whether a room can have the id.
func leasable(room string) bool {
	return matrix.ValidRoomID(room) && len(room) <= maxRoomID && postgres.Storable(room)
}

// backfill asks for history. An error is logged.
func (m *Messages) backfill(ctx context.Context, request Request, before matrix.PageToken) {
	waiting, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	err := m.options.Backfill.Backfill(waiting, request.Room, request.Reader, before, request.Limit)
	if err != nil && !errors.Is(err, ErrNotAsked) {
		m.options.Log.LogAttrs(ctx, slog.LevelWarn, "no history came from other servers",
			slog.String("room", request.Room), slog.Any("error", err))
	}
}

// A selection has the parts of a page before it is rendered.
type selection struct {
	// asked is the token at which the reader wants to begin, and start the token at
	// which the page begins.
	asked, start matrix.PageToken

	// end is the token of the next page, nil if this is the last one.
	end *matrix.PageToken

	// events are the events that were read.
	events []timeline.Event

	// complete says that history of other servers cannot belong to the page.
	complete bool
}

// readPage reads the events of a page and decides how the reader may read the room. It
// needs one round trip if the reader is joined. The error is [ErrForbidden] if the reader
// may not read the room.
func (m *Messages) readPage(ctx context.Context, snapshot *timeline.Snapshot, request Request) (timeline.Page, access, error) {
	query := m.query(request, nil)
	if !request.All {
		query.Reader = &request.Reader.UserID
	}
	pages, err := snapshot.Pages(ctx, query)
	if err != nil {
		return timeline.Page{}, access{}, err
	}
	if request.All || pages[0].ReaderAccess.Membership == "join" {
		return pages[0], access{}, nil
	}
	access, err := accessOf(pages[0].ReaderAccess)
	if err != nil {
		return timeline.Page{}, access, err
	}
	if pages, err = snapshot.Pages(ctx, m.query(request, access.left)); err != nil {
		return timeline.Page{}, access, err
	}
	return pages[0], access, nil
}

// query returns the query for the events of a page. A reader who has left the room at the
// position left sees no later events.
func (m *Messages) query(request Request, left *matrix.Token) timeline.PageQuery {
	query := timeline.PageQuery{
		Room:      request.Room,
		Backwards: request.Backwards,
		Filter:    request.Filter.events,
		Limit:     request.Limit,
		RoomEnd:   request.From == nil && request.Backwards,
		// They are needed only to hide events and to find memberships.
		NoStateGroups: request.All && !request.Filter.lazy,
		Bytes:         m.piece.bytes,
		Children:      &timeline.ChildQuery{Ignorer: request.ignorer(), Ceiling: m.ceiling(request, left)},
	}
	if !request.All {
		query.FilterTime = m.options.FilterTime
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
	query.Ceiling = m.ceiling(request, left)
	return query
}

// ceiling returns the last place that a reader who has left the room at the position
// left may read, nil if there is no such place.
func (m *Messages) ceiling(request Request, left *matrix.Token) *matrix.Token {
	if request.Backwards || !m.options.DepartedSeeLater {
		return left
	}
	return nil
}

// selectPage decides where the page begins and where the next one begins. The filter and
// the visibility are applied later, so a page without visible events need not be the
// last one.
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

// endOf returns the token of the next page, nil if the page is empty and no events are
// left.
func endOf(request Request, start matrix.PageToken, read timeline.Page) *matrix.PageToken {
	switch {
	case request.Limit == 0 && request.To != nil:
		return request.To // no event is between, so the next page begins where this one ends
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

// previous returns the position just before the given one. It reports false if there is
// none.
func previous(at matrix.Token) (matrix.Token, bool) {
	switch {
	case at.Stream > math.MinInt64:
		return matrix.Token{Topological: at.Topological, Stream: at.Stream - 1}, true
	case at.Topological > 0:
		return matrix.Token{Topological: at.Topological - 1, Stream: math.MaxInt64}, true
	}
	return matrix.Token{}, false
}

// readable reports whether the event can be read.
func readable(event timeline.Event) bool {
	e, _, ok := read(&event, nil)
	return ok && e.isWhole()
}

// isLater reports whether a token is deeper than the event with which a reader left. A
// live token is as deep as the least deep event that arrived after it.
func isLater(ctx context.Context, snapshot *timeline.Snapshot, room string, token matrix.PageToken, left matrix.Token) (bool, error) {
	if at, historic := token.Historic(); historic {
		return left.Topological < at.Topological, nil
	}
	arrived, err := snapshot.ArrivedBelow(ctx, room, left.Topological, token.Stream())
	return !arrived, err
}

// reaches reports whether a token is at another one or before it. They are compared by
// depth if both have one, else by the order of arrival.
func reaches(token, other matrix.PageToken) bool {
	a, historicA := token.Historic()
	b, historicB := other.Historic()
	if historicA && historicB {
		return a.Topological < b.Topological || a.Topological == b.Topological && a.Stream <= b.Stream
	}
	return token.Stream() <= other.Stream()
}

const (
	// maxSmallGap is the largest difference between the depths of two events that does
	// not mean by itself that events are missing between them. More than maxSmallGaps
	// small gaps mean it together.
	maxSmallGap  = 2
	maxSmallGaps = 3
)

// gap reports whether events seem to be missing on a page backwards, because it has fewer
// than the limit or because their depths are not consecutive.
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
		case distance > maxSmallGap:
			return true
		case distance > 1:
			gaps++
		}
	}
	return gaps > maxSmallGaps
}

// allShown returns the events as a reader sees them from whom nothing is hidden.
func allShown(events []timeline.Event) []shown {
	chunk := make([]shown, len(events))
	for i, event := range events {
		chunk[i].Event = event
	}
	return chunk
}
