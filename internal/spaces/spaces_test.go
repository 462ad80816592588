package spaces_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/spaces"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// A lab is a database in which a test makes spaces.
type lab struct {
	*storetest.Lab
	spaces *spaces.Spaces
	events int
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := storetest.New(t, schema.API)
	return &lab{Lab: l, spaces: spaces.New(l.DB, "x:8448")}
}

// room makes a room that a user has joined, a space if the type says so.
func (l *lab) room(id, roomType, user string) {
	l.T.Helper()
	l.Exec(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '10')`, id)
	l.Exec(`INSERT INTO room_stats_state (room_id, room_type) VALUES ($1, nullif($2, ''))`, id, roomType)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership)
		VALUES ('$member of ' || $1, $1, 'm.room.member', $2, 'join')`, id, user)
}

// child puts a room into a space, with the content of the event.
func (l *lab) child(space, room, content string) {
	l.T.Helper()
	l.events++
	id := fmt.Sprint("$child", l.events)
	text, err := json.Marshal(map[string]any{
		"type": "m.space.child", "state_key": room, "sender": "@a:x:8448", "origin_server_ts": l.events, "depth": 1,
		"content": json.RawMessage(content),
	})
	require.NoError(l.T, err)
	l.Exec(`INSERT INTO events (event_id, room_id, type, state_key, sender, topological_ordering, depth, stream_ordering,
			origin_server_ts, processed, outlier)
		VALUES ($1, $2, 'm.space.child', $3, '@a:x:8448', 1, 1, $4, $4, true, false)`, id, space, room, l.events)
	l.Exec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) VALUES ($1, $2, '{}', $3, 3)`, id, space, string(text))
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 'm.space.child', $3)`, id, space, room)
}

// hierarchy returns the ids of the rooms on a page.
func (l *lab) hierarchy(request spaces.Request) (ids []string, more bool) {
	l.T.Helper()
	page, err := l.spaces.Hierarchy(l.Ctx, request)
	require.NoError(l.T, err)
	for _, room := range page.Rooms {
		ids = append(ids, room.ID)
	}
	return ids, page.More
}

const via = `{"via":["x"]}`

func TestRoomsAreShownOnceInTheirOrder(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, space := range []string{"!root:x", "!sub:x"} {
		l.room(space, "m.space", "@a:x:8448")
	}
	for _, room := range []string{"!a:x", "!b:x", "!c:x", "!d:x"} {
		l.room(room, "", "@a:x:8448")
	}
	l.room("!elsewhere:x", "", "@a:y:x:8448") // a user of another server
	l.room("!else:x", "", "@a:x")

	l.child("!root:x", "!d:x", via)
	l.child("!root:x", "!elsewhere:x", via)
	l.child("!root:x", "!else:x", via)
	l.child("!root:x", "!unknown:x", via)
	l.child("!root:x", "!c:x", `{"via":["x"],"order":"\u00fc"}`) // no valid order
	l.child("!root:x", "!b:x", `{"via":["x"],"order":"z"}`)
	l.child("!root:x", "!sub:x", `{"via":["x"],"order":" "}`)
	l.child("!sub:x", "!root:x", via)
	l.child("!sub:x", "!sub:x", via)
	l.child("!sub:x", "!a:x", via)
	l.child("!a:x", "!root:x", via) // not a space

	all := []string{"!root:x", "!sub:x", "!a:x", "!b:x", "!d:x", "!c:x"}
	found, more := l.hierarchy(spaces.Request{Root: "!root:x", Limit: 50})
	require.Equal(t, all, found)
	require.False(t, more)
	found, _ = l.hierarchy(spaces.Request{Root: "!root:x", Limit: 50, MaxDepth: new(int64(1))})
	require.Equal(t, []string{"!root:x", "!sub:x", "!b:x", "!d:x", "!c:x"}, found)
	found, more = l.hierarchy(spaces.Request{Root: "!root:x", Limit: 50, MaxDepth: new(int64(0))})
	require.Equal(t, all[:1], found)
	require.False(t, more)

	for limit := 1; limit < 8; limit++ {
		var pages []string
		for skip, more := 0, true; more; skip += limit {
			found, more = l.hierarchy(spaces.Request{Root: "!root:x", Skip: int64(skip), Limit: int64(limit)})
			pages = append(pages, found...)
		}
		require.Equal(t, all, pages, limit)
	}
	found, more = l.hierarchy(spaces.Request{Root: "!root:x"})
	require.Empty(t, found)
	require.True(t, more)
}

func TestRemovedAndMalformedChildrenAreNoChildren(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.room("!root:x", "m.space", "@a:x:8448")
	for i, content := range []string{
		`{}`, `{"via":[]}`, `{"via":null}`, `{"via":"x"}`, `{"via":["x",null]}`, `{"via":["x",1]}`, `{"via":{"0":"x"}}`, `[]`, `null`, `"via"`,
	} {
		room := fmt.Sprint("!", i, ":x")
		l.room(room, "", "@a:x:8448")
		l.child("!root:x", room, content)
	}
	l.child("!root:x", "", via) // an empty state key
	page, err := l.spaces.Hierarchy(l.Ctx, spaces.Request{Root: "!root:x", Limit: 50})
	require.NoError(t, err)
	require.Len(t, page.Rooms, 1)
	require.Len(t, page.Rooms[0].Children, 1)

	for _, root := range []string{"", "!\x00:x", "!unknown:x", "\xff", strings.Repeat("x", 1<<20)} {
		found, more := l.hierarchy(spaces.Request{Root: root, Limit: 50, Skip: 1 << 62})
		require.Empty(t, found)
		require.False(t, more)
	}
}

// A chain of spaces is as deep as its owner likes, and a space as wide.
func TestDeepAndWideSpaces(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const rooms = 260
	id := func(i int) string { return fmt.Sprint("!", i, ":x") }
	for i := range rooms {
		l.room(id(i), "m.space", "@a:x:8448")
		if i > 0 {
			l.child(id(i/2), id(i), via)
			l.child(id(i), id(0), via)
		}
	}
	seen := map[string]bool{}
	for skip, more := int64(0), true; more; skip += 50 {
		var found []string
		found, more = l.hierarchy(spaces.Request{Root: id(0), Skip: skip, Limit: 50})
		for _, room := range found {
			require.False(t, seen[room], room)
			seen[room] = true
		}
	}
	require.Len(t, seen, rooms)
	found, _ := l.hierarchy(spaces.Request{Root: id(0), Skip: 1<<63 - 1, Limit: 1<<63 - 1})
	require.Empty(t, found)
}
