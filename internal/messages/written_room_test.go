package messages

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/schema"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/store/timeline"
)

// A house is a Messages on an embedded database of its own, with a plain
// connection beside it.
type house struct {
	*Messages
	t    *testing.T
	ctx  context.Context
	conn *pgx.Conn
}

func newHouse(t *testing.T, options Options) *house {
	t.Helper()
	return houseAt(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded), options)
}

func houseAt(t *testing.T, url string, options Options) *house {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	db, err := postgres.Open(ctx, storetest.AsKnownColumns(t, url, schema.API), postgres.Options{MaxConnections: 2})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return &house{New(db, options), t, ctx, conn}
}

func (h *house) requireExec(sql string, args ...any) {
	h.t.Helper()
	_, err := h.conn.Exec(h.ctx, sql, args...)
	require.NoError(h.t, err)
}

// accessTo is how the user may read the room.
func (h *house) accessTo(room, user string) (a access, err error) {
	h.t.Helper()
	err = timeline.Read(h.ctx, h.db, func(ctx context.Context, s *timeline.Snapshot) error {
		_, a, err = h.readPage(ctx, s, Request{Room: room, Reader: Reader{UserID: user}, Backwards: true})
		return err
	})
	return a, err
}

// requireVisible is [sight.visible] in a Snapshot of its own.
func (h *house) requireVisible(room string, reader Reader, a access, events []timeline.Event) (visible []shown) {
	h.t.Helper()
	require.NoError(h.t, timeline.Read(h.ctx, h.db, func(ctx context.Context, s *timeline.Snapshot) (err error) {
		seen := sight{m: h.Messages, snapshot: s, room: room, reader: reader, access: a}
		visible, err = seen.visible(ctx, events, nil)
		return err
	}))
	return visible
}

// topicKey is the key of a room's topic in its state.
var topicKey = matrix.StateKey{Type: "m.room.topic"}

// A writtenRoom is one whose events are written as a homeserver would: each state event
// makes a state group that is a difference to the one before.
type writtenRoom struct {
	*house
	id     string
	group  *int64
	depth  int64
	events []timeline.Event
	state  map[matrix.StateKey]string
}

// newRoom makes a room of @owner:x with that history visibility.
func (h *house) newRoom(id, visibility string) *writtenRoom {
	h.t.Helper()
	r := &writtenRoom{house: h, id: id, state: map[matrix.StateKey]string{}}
	h.requireExec(`INSERT INTO rooms (room_id, room_version) VALUES ($1, '11')`, id)
	r.set("m.room.create", "", `{}`)
	r.member("@owner:x", "join")
	r.set("m.room.join_rules", "", `{"join_rule":"public"}`)
	if visibility != "" {
		r.set("m.room.history_visibility", "", `{"history_visibility":"`+visibility+`"}`)
	}
	return r
}

// say writes a message of @owner:x.
func (r *writtenRoom) say(text string) {
	r.t.Helper()
	r.requireWrite("m.room.message", "@owner:x", nil, `{"body":"`+text+`"}`)
}

// set writes a state event of @owner:x.
func (r *writtenRoom) set(eventType, key, content string) {
	r.t.Helper()
	r.requireWrite(eventType, "@owner:x", &key, content)
}

// member makes the user what it says of itself.
func (r *writtenRoom) member(user, membership string) {
	r.t.Helper()
	r.requireWrite("m.room.member", user, &user, `{"membership":"`+membership+`"}`)
	r.belong(user, membership, r.last().ID)
}

func (r *writtenRoom) belong(user, membership, event string) {
	r.t.Helper()
	r.requireExec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership) VALUES ($1, $2, $2, $3, $4)`,
		event, user, r.id, membership)
	r.requireExec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, room_id) DO UPDATE SET event_id = $3, membership = $4`, r.id, user, event, membership)
}

func (r *writtenRoom) last() *timeline.Event { return &r.events[len(r.events)-1] }

// requireWrite writes an event after the last one.
func (r *writtenRoom) requireWrite(eventType, sender string, key *string, content string) {
	r.t.Helper()
	e := r.requireEvent(eventType, sender, key, content)
	if key != nil {
		var group int64
		require.NoError(r.t, r.conn.QueryRow(r.ctx, `
			INSERT INTO state_groups (id, room_id, event_id) SELECT nextval('state_group_id_seq'), $1, $2 RETURNING id`,
			r.id, e.ID).Scan(&group))
		if r.group != nil {
			r.requireExec(`INSERT INTO state_group_edges VALUES ($1, $2)`, group, *r.group)
		}
		r.requireExec(`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id) VALUES ($1, $2, $3, $4, $5)`,
			group, r.id, eventType, *key, e.ID)
		r.requireExec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1, $2, $3, $4)
			ON CONFLICT (room_id, type, state_key) DO UPDATE SET event_id = $1`, e.ID, r.id, eventType, *key)
		r.state[matrix.StateKey{Type: eventType, Key: *key}] = e.ID
		r.group = &group
	}
	r.requireExec(`INSERT INTO event_to_state_groups VALUES ($1, $2)`, e.ID, *r.group)
	e.StateGroup = r.group
	r.events = append(r.events, e)
}

// outside writes a member event outside the room's timeline.
func (r *writtenRoom) outside(user, membership string) {
	r.t.Helper()
	e := r.requireEvent("m.room.member", user, &user, `{"membership":"`+membership+`"}`)
	e.Outlier = true
	r.requireExec(`UPDATE events SET outlier = true WHERE event_id = $1`, e.ID)
	r.belong(user, membership, e.ID)
	r.events = append(r.events, e)
}

func (r *writtenRoom) requireEvent(eventType, sender string, key *string, content string) timeline.Event {
	r.t.Helper()
	r.depth++
	n := r.depth
	e := timeline.Event{
		ID: fmt.Sprintf("$%s/%d", r.id, n), Type: eventType, Sender: sender, StateKey: key, Topological: n,
		OriginTS: n, InternalMetadata: json.RawMessage(`{}`),
	}
	unsigned := `{}`
	if key != nil {
		if replaced := r.state[matrix.StateKey{Type: eventType, Key: *key}]; replaced != "" {
			unsigned = `{"replaces_state":"` + replaced + `"}`
		}
	}
	stateKey := ``
	if key != nil {
		stateKey = `"state_key":"` + *key + `",`
	}
	e.JSON = json.RawMessage(fmt.Sprintf(`{"type":%q,"sender":%q,%s"content":%s,"origin_server_ts":%d,"depth":%d,"unsigned":%s}`,
		eventType, sender, stateKey, content, n, n, unsigned))
	require.NoError(r.t, r.conn.QueryRow(r.ctx, `
		INSERT INTO events (event_id, room_id, type, sender, state_key, topological_ordering, depth, stream_ordering,
			processed, outlier, origin_server_ts)
		VALUES ($1, $2, $3, $4, $5, $6, $6, nextval('events_stream_seq'), true, false, $6) RETURNING stream_ordering`,
		e.ID, r.id, eventType, sender, key, n).Scan(&e.Stream))
	r.requireExec(`INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version) VALUES ($1, $2, '{}', $3, 3)`, e.ID, r.id, string(e.JSON))
	if key != nil {
		r.requireExec(`INSERT INTO state_events (event_id, room_id, type, state_key) VALUES ($1, $2, $3, $4)`, e.ID, r.id, eventType, *key)
	}
	return e
}

// requireRewrite replaces the last event of a type and state key, but not its id.
func (r *writtenRoom) requireRewrite(eventType, key, event string) {
	r.t.Helper()
	id := r.state[matrix.StateKey{Type: eventType, Key: key}]
	require.NotEmpty(r.t, id)
	r.requireExec(`UPDATE event_json SET json = $2 WHERE event_id = $1`, id, event)
}

// requireSeenBy returns what the reader sees of the room, with memberships: of
// messages what they say, of other events their type, state key and membership.
func (r *writtenRoom) requireSeenBy(user string) []string {
	r.t.Helper()
	a, err := r.accessTo(r.id, user)
	require.NoError(r.t, err)
	return requireNames(r.t, r.requireVisible(r.id, Reader{UserID: user}, a, r.events))
}

func requireNames(t *testing.T, events []shown) []string {
	t.Helper()
	seen := []string{}
	for _, e := range events {
		var event struct {
			Content struct{ Body, Membership string }
		}
		require.NoError(t, json.Unmarshal(e.JSON, &event))
		name := event.Content.Body
		if e.StateKey != nil {
			name = e.Type
			if e.Type == "m.room.member" {
				name = *e.StateKey + " " + event.Content.Membership
			}
		}
		name += ", " + e.membership
		if e.erased {
			name += ", erased"
		}
		seen = append(seen, name)
	}
	return seen
}

// messagesOnly are those of the names that are of messages.
func messagesOnly(names []string) []string {
	only := []string{}
	for _, name := range names {
		if name[0] == '>' {
			only = append(only, name)
		}
	}
	return only
}
