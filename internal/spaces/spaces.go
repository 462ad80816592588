package spaces

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/store/timeline"
)

const (
	// maxRooms is the maximum number of rooms in a hierarchy, and maxChildren that of
	// the rooms in one space. No real space has as many.
	maxRooms    = 10_000
	maxChildren = 10_000

	// atATime is the number of rooms or events that one query reads.
	atATime = 200
)

// Spaces reads hierarchies. It is safe for concurrent use.
type Spaces struct {
	db         *postgres.DB
	queries    *admin.Queries
	serverName string
}

// New returns Spaces that read from db. The server with the name is in the rooms that a
// hierarchy shows.
func New(db *postgres.DB, serverName string) *Spaces {
	return &Spaces{db: db, queries: admin.New(db), serverName: serverName}
}

// A Request asks for a page of a hierarchy.
type Request struct {
	// Root is the id of the room at which the hierarchy begins.
	Root string

	// MaxDepth is the number of steps that a room may be away from the root. 0 is the
	// root alone. Defaults to nil, which is no limit.
	MaxDepth *int64

	// Skip is the number of rooms on earlier pages, and Limit the maximum number on this
	// page. Limit has no default.
	Skip, Limit int64
}

// A Page is the answer to a Request.
type Page struct {
	// Rooms are the rooms, each before the rooms in it.
	Rooms []Room

	// More says that there may be another page.
	More bool
}

// A Room is a room in a hierarchy.
type Room struct {
	admin.RoomSummary

	// Children are the rooms in a space. Other rooms have none.
	Children []Child
}

// A Child is the state event that puts a room into a space.
type Child struct {
	Room     string // the room in the space
	Sender   string
	SentTS   int64 // in Unix milliseconds, by the sender's clock
	Content  json.RawMessage
	order    string
	hasOrder bool
}

// Hierarchy returns a page of the rooms that are below the root, and the root itself. It
// shows only rooms with a joined user of this server. Each page is computed from the
// spaces as they are: if they change between two pages, a room may be on both or on
// neither. A hierarchy ends after 10,000 rooms.
func (s *Spaces) Hierarchy(ctx context.Context, request Request) (Page, error) {
	skip := min(max(request.Skip, 0), maxRooms)
	end := min(skip+min(max(request.Limit, 0), maxRooms), maxRooms)
	w := walk{spaces: s, queue: []step{{room: request.Root}}, done: map[string]bool{}, known: map[string]admin.RoomSummary{}}
	var page Page
	for found := int64(0); found < end; found++ {
		room, ok, err := w.next(ctx, request.MaxDepth)
		if err != nil {
			return Page{}, fmt.Errorf("walk through a space: %w", err)
		}
		if !ok {
			break
		}
		if found >= skip {
			page.Rooms = append(page.Rooms, room)
		}
	}
	page.More = len(w.queue) > 0 && end < maxRooms
	return page, nil
}

// A step leads to a room, which is depth rooms away from the root.
type step struct {
	room  string
	depth int64
}

// A walk visits the rooms of a hierarchy, depth first.
type walk struct {
	spaces *Spaces

	// queue has the steps that are left. The last one is the next.
	queue []step

	// done has the rooms that were visited or cannot be.
	done map[string]bool

	// known has the summaries that were read ahead.
	known map[string]admin.RoomSummary
}

// next visits the next room. It returns false if there is no other.
func (w *walk) next(ctx context.Context, maxDepth *int64) (Room, bool, error) {
	for len(w.queue) > 0 {
		if err := w.readAhead(ctx); err != nil {
			return Room{}, false, err
		}
		last := w.queue[len(w.queue)-1]
		w.queue = w.queue[:len(w.queue)-1]
		if w.done[last.room] {
			continue
		}
		w.done[last.room] = true
		summary, ok := w.known[last.room]
		if !ok {
			continue // this server is not in it
		}
		delete(w.known, last.room)
		room := Room{RoomSummary: summary}
		if summary.Type != nil && *summary.Type == "m.space" {
			var err error
			if room.Children, err = w.spaces.children(ctx, last.room); err != nil {
				return Room{}, false, err
			}
		}
		if maxDepth == nil || last.depth < *maxDepth {
			for _, child := range slices.Backward(room.Children) {
				w.queue = append(w.queue, step{child.Room, min(last.depth, math.MaxInt64-1) + 1})
			}
		}
		return room, true, nil
	}
	return Room{}, false, nil
}

// readAhead reads the summary of the next room, and with it those of the rooms after it.
func (w *walk) readAhead(ctx context.Context) error {
	next := w.queue[len(w.queue)-1].room
	if _, ok := w.known[next]; ok || w.done[next] {
		return nil
	}
	var ids []string
	for _, step := range slices.Backward(w.queue) {
		if _, ok := w.known[step.room]; ok || w.done[step.room] {
			continue
		}
		if ids = append(ids, step.room); len(ids) == atATime {
			break
		}
	}
	read, err := w.spaces.queries.RoomSummaries(ctx, w.spaces.serverName, ids)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if summary, ok := read[id]; ok {
			w.known[id] = summary
		} else {
			w.done[id] = true
		}
	}
	return nil
}

// children returns the rooms in a space in the order of the specification: those with an
// order come first, and then the older event. It leaves out events without a server to
// join by, which is how a room is removed from a space.
func (s *Spaces) children(ctx context.Context, space string) ([]Child, error) {
	entries, err := s.queries.RoomState(ctx, space, "m.space.child", admin.StateEntry{}, maxChildren)
	if err != nil {
		return nil, err
	}
	var children []Child
	for some := range slices.Chunk(entries, atATime) {
		ids := make([]string, 0, len(some))
		for _, entry := range some {
			ids = append(ids, entry.EventID)
		}
		events, err := timeline.Events(ctx, s.db, space, ids)
		if err != nil {
			return nil, err
		}
		for _, entry := range some {
			event, ok := events[entry.EventID]
			if !ok {
				continue
			}
			child := Child{Room: entry.Key, Sender: event.Sender, SentTS: event.OriginTS, Content: messages.Content(&event)}
			content, isObject := matrix.SplitObject(nil, child.Content)
			if !isObject || !isVia(content.Get("via")) {
				continue
			}
			child.order, child.hasOrder = matrix.Text(content.Get("order"))
			child.hasOrder = child.hasOrder && isOrder(child.order)
			children = append(children, child)
		}
	}
	slices.SortStableFunc(children, compare)
	return children, nil
}

// compare compares the places of two children. Children that are equal keep the order of
// their ids.
func compare(a, b Child) int {
	switch {
	case a.hasOrder && b.hasOrder:
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.SentTS, b.SentTS))
	case a.hasOrder:
		return -1
	case b.hasOrder:
		return 1
	}
	return cmp.Compare(a.SentTS, b.SentTS)
}

// isOrder reports whether a text may order the rooms of a space.
func isOrder(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return len(text) <= 50
}

// isVia reports whether a value is a list of servers, which is not empty.
func isVia(value json.RawMessage) bool {
	var servers []*string
	if json.Unmarshal(value, &servers) != nil {
		return false
	}
	return len(servers) > 0 && !slices.Contains(servers, nil)
}
