package roomgen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// writeEvery is the maximum number of events in memory.
	writeEvery = 2000

	// fullEvery is the number of state groups of which one is stored in full, and
	// the others as differences to the one before.
	fullEvery = 100

	// remembered is the number of recent messages to which reactions, edits,
	// redactions and threads may refer.
	remembered = 50

	roomVersion   = "11"
	formatVersion = 3 // of the events of that version

	// seedOfRooms is the half of the seed that all rooms share.
	seedOfRooms = 0x6c65746865
)

// A generator generates one room, event by event.
type generator struct {
	room    Room
	rand    *rand.Rand
	rows    *rows
	last    *numbers
	members []member
	plan    []func() // the next events, if they are not random
	total   int      // final number of events
	summary Summary

	depth, group int64    // the last event's
	tips         []string // the forward extremities
	before       []string // the previous events of the last event

	state  map[stateKey]*event
	recent []*event // messages, the oldest first
	thread *thread  // the current thread
	newest int64    // stream ordering of the last event
	bumped int64    // stream ordering of the last message
	failed error    // the first event that could not be encoded
}

// numbers are the last stream ordering and state group that were used in any room.
type numbers struct{ stream, group int64 }

// A thread is a root message and the messages in its thread.
type thread struct {
	root   string
	latest *event
	left   int // number of messages still to come
}

// generate generates rooms in one transaction. Their events are ordered by time of
// arrival in the stream of all rooms.
func generate(ctx context.Context, db Database, rooms ...Room) ([]Summary, error) {
	var summaries []Summary
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if err := lock(ctx, tx); err != nil {
			return err
		}
		var last numbers
		// The sequences of a homeserver may be ahead of the tables. Not every
		// database has them.
		if err := tx.QueryRow(ctx, `
			SELECT greatest((SELECT max(stream_ordering) FROM events), pg_sequence_last_value(to_regclass('events_stream_seq')), 0),
			       greatest((SELECT max(id) FROM state_groups), pg_sequence_last_value(to_regclass('state_group_id_seq')), 0)`).
			Scan(&last.stream, &last.group); err != nil {
			return fmt.Errorf("find the next numbers: %w", err)
		}
		rows := &rows{tx: tx, waiting: map[string][][]any{}, found: []foundText{}}
		var generators []*generator
		for _, room := range rooms {
			g, err := begin(ctx, rows, &last, room)
			if err != nil {
				return err
			}
			generators = append(generators, g)
		}
		for made := 1; ; made++ {
			g := earliest(generators)
			if g == nil {
				break
			}
			g.next()
			if made%writeEvery == 0 {
				if err := rows.write(ctx); err != nil {
					return err
				}
			}
		}
		for _, g := range generators {
			g.end()
			if g.failed != nil {
				return g.failed
			}
			summaries = append(summaries, g.summary)
		}
		if err := rows.write(ctx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			SELECT setval(sequence, value)
			FROM (VALUES (to_regclass('events_stream_seq'), $1::bigint), (to_regclass('state_group_id_seq'), $2))
			     AS s (sequence, value)
			WHERE sequence IS NOT NULL`, last.stream, last.group); err != nil {
			return fmt.Errorf("move the sequences on: %w", err)
		}
		return nil
	})
	return summaries, err
}

// begin prepares a room's generator and writes the rows that do not belong to events.
func begin(ctx context.Context, rows *rows, last *numbers, room Room) (*generator, error) {
	if room.Server == "" {
		return nil, errors.New("Server is not set")
	}
	room = room.withDefaults()
	g := &generator{
		room: room, rand: rand.New(rand.NewPCG(room.Seed, seedOfRooms)),
		rows: rows, last: last, members: room.members(), state: map[stateKey]*event{},
	}
	g.setUp()
	g.total = max(room.Events, len(g.plan))

	tag, err := rows.tx.Exec(ctx, `
		INSERT INTO rooms (room_id, is_public, creator, room_version, has_auth_chain_index)
		VALUES ($1, false, $2, $3, false) ON CONFLICT DO NOTHING`, room.ID, room.Creator, roomVersion)
	if err != nil {
		return nil, fmt.Errorf("write rooms: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil, fmt.Errorf("%s: %w", room.ID, ErrExists)
	}
	var locals []string
	for _, m := range g.members {
		if m.local {
			locals = append(locals, m.id)
		}
	}
	return g, insertUsers(ctx, rows.tx, locals)
}

// earliest returns the generator whose next event arrives first, or nil if all are
// done.
func earliest(generators []*generator) *generator {
	var first *generator
	for _, g := range generators {
		if g.summary.Events < g.total && (first == nil || g.arrival() < first.arrival()) {
			first = g
		}
	}
	return first
}

// arrival returns when the next event arrives, in Unix milliseconds.
func (g *generator) arrival() int64 {
	left := float64(g.total-1-g.summary.Events) / float64(max(g.total-1, 1)) // 1 for the first, 0 for the last
	return g.room.End.Add(-time.Duration(left * float64(g.room.Span))).UnixMilli()
}

// setUp plans the first events of a room and the joins of its members.
func (g *generator) setUp() {
	creator := &g.members[0]
	set := func(kind string, content map[string]any) {
		g.plan = append(g.plan, func() { g.set(creator, kind, "", content) })
	}
	join := func(m *member) {
		g.plan = append(g.plan, func() { g.join(m) })
	}
	set("m.room.create", map[string]any{"room_version": roomVersion})
	join(creator)
	set("m.room.power_levels", map[string]any{
		"ban": 50, "events": map[string]any{"m.room.history_visibility": 100, "m.room.power_levels": 100},
		"events_default": 0, "invite": 0, "kick": 50, "redact": 50, "state_default": 50,
		"users": map[string]any{creator.id: 100}, "users_default": 0,
	})
	set("m.room.join_rules", map[string]any{"join_rule": "public"})
	set("m.room.history_visibility", map[string]any{"history_visibility": "shared"})
	set("m.room.name", map[string]any{"name": g.room.Name})
	for i := 1; i < len(g.members); i++ {
		join(&g.members[i])
	}
}

// join adds a member's join event.
func (g *generator) join(m *member) {
	name := localpart(m.id)
	e := g.set(m, "m.room.member", m.id, map[string]any{"displayname": name, "membership": "join"})
	m.join = e.id
	g.rows.add("room_memberships", e.id, m.id, m.id, e.RoomID, "join", name, e.stream)
}

// next adds the next event: the next planned one, or a random one.
func (g *generator) next() {
	if len(g.plan) > 0 {
		planned := g.plan[0]
		g.plan = g.plan[1:]
		planned()
		return
	}
	if every := g.room.StateEvery; every > 0 && (g.summary.Events+1)%every == 0 {
		kind := []string{"topic", "topic", "name"}[g.rand.IntN(3)]
		g.set(&g.members[0], "m.room."+kind, "", map[string]any{kind: sentence(g.rand, 2, 6)})
		return
	}
	by := &g.members[g.rand.IntN(len(g.members))]
	if len(g.recent) == 0 {
		g.say(by, nil)
		return
	}
	about := g.recent[g.rand.IntN(len(g.recent))]
	switch roll := g.rand.IntN(100); {
	case roll < 8:
		g.react(by, about)
	case roll < 10:
		g.edit(about)
	case roll < 11:
		g.redact(about)
	case roll < 20:
		g.say(by, map[string]any{"m.in_reply_to": map[string]any{"event_id": about.id}})
	case roll < 24:
		g.beginThread(about)
		g.sayInThread(by)
	case roll < 40 && g.thread != nil:
		g.sayInThread(by)
	default:
		g.say(by, nil)
	}
}

// say adds a message, with a relation to another event if one is given.
func (g *generator) say(by *member, relation map[string]any) *event {
	content := map[string]any{"body": sentence(g.rand, 2, 25), "msgtype": "m.text"}
	if relation != nil {
		content["m.relates_to"] = relation
	}
	var mentioned *member
	if g.rand.IntN(20) == 0 {
		mentioned = &g.members[g.rand.IntN(len(g.members))]
		content["m.mentions"] = map[string]any{"user_ids": []string{mentioned.id}}
	}
	e := g.make(event{Type: "m.room.message", Content: content, by: by})
	g.rows.addSearch(e, "content.body", content["body"].(string))
	g.bumped = e.stream
	if relation["rel_type"] == "m.thread" {
		g.notify(e, mentioned, g.thread.root)
		return e // no other event refers to it, because threads do not nest
	}
	g.notify(e, mentioned, "main")
	if len(g.recent) == remembered {
		g.recent = slices.Delete(g.recent, 0, 1)
	}
	g.recent = append(g.recent, e)
	return e
}

// notify adds notifications of a message for some of the local members, and always
// for a mentioned one.
func (g *generator) notify(e *event, mentioned *member, thread string) {
	for i := range g.members {
		m := &g.members[i]
		if !m.local || m == e.by || (m != mentioned && g.rand.IntN(16) > 0) {
			continue
		}
		actions, highlight := "", 0 // the rule's own actions
		if m == mentioned {
			actions, highlight = `["notify",{"set_tweak":"highlight"}]`, 1
		}
		g.rows.add("event_push_actions",
			e.RoomID, e.id, m.id, actions, e.Depth, e.stream, 1, highlight, 0, thread)
	}
}

// beginThread ends the current thread and makes the message the root of a new one.
func (g *generator) beginThread(root *event) {
	g.endThread()
	g.thread = &thread{root: root.id, left: 3 + g.rand.IntN(20)}
	// A message can be the root of only one thread.
	g.recent = slices.DeleteFunc(g.recent, func(e *event) bool { return e == root })
}

func (g *generator) sayInThread(by *member) {
	g.thread.latest = g.say(by, map[string]any{"rel_type": "m.thread", "event_id": g.thread.root})
	g.rows.add("event_relations", g.thread.latest.id, g.thread.root, "m.thread", nil)
	if g.thread.left--; g.thread.left == 0 {
		g.endThread()
	}
}

func (g *generator) endThread() {
	if t := g.thread; t != nil {
		g.rows.add("threads", g.room.ID, t.root, t.latest.id, t.latest.Depth, t.latest.stream)
		g.thread = nil
	}
}

func (g *generator) react(by *member, to *event) {
	key := reactions[g.rand.IntN(len(reactions))]
	e := g.make(event{Type: "m.reaction", by: by, Content: map[string]any{
		"m.relates_to": map[string]any{"event_id": to.id, "key": key, "rel_type": "m.annotation"},
	}})
	g.rows.add("event_relations", e.id, to.id, "m.annotation", key)
}

func (g *generator) edit(what *event) {
	text := sentence(g.rand, 2, 25)
	e := g.make(event{Type: "m.room.message", by: what.by, Content: map[string]any{
		"body":          "* " + text,
		"m.new_content": map[string]any{"body": text, "msgtype": "m.text"},
		"m.relates_to":  map[string]any{"event_id": what.id, "rel_type": "m.replace"},
		"msgtype":       "m.text",
	}})
	g.rows.add("event_relations", e.id, what.id, "m.replace", nil)
	g.rows.addSearch(e, "content.body", text)
}

// redact adds a redaction of a message by its sender. The message's own rows do not
// change, because a homeserver censors them only later.
func (g *generator) redact(what *event) {
	e := g.make(event{Type: "m.room.redaction", by: what.by, Content: map[string]any{"redacts": what.id}})
	g.rows.add("redactions", e.id, what.id, false, e.received, false)
	g.recent = slices.DeleteFunc(g.recent, func(r *event) bool { return r == what })
}

// set adds a state event.
func (g *generator) set(by *member, kind, key string, content map[string]any) *event {
	e := g.make(event{Type: kind, StateKey: &key, Content: content, by: by})
	g.rows.add("state_events", e.id, e.RoomID, kind, key)
	if text, ok := content[strings.TrimPrefix(kind, "m.room.")].(string); ok && (kind == "m.room.name" || kind == "m.room.topic") {
		g.rows.addSearch(e, "content."+strings.TrimPrefix(kind, "m.room."), text)
	}
	g.summary.StateEvents++
	return e
}

// make completes an event and adds the rows that every event has.
func (g *generator) make(e event) *event {
	n := g.summary.Events
	e.received = g.arrival()
	e.RoomID, e.Sender = g.room.ID, e.by.id
	g.summary.Events++
	g.last.stream++
	g.newest, e.stream = g.last.stream, g.last.stream
	e.OriginServerTS = e.received - g.rand.Int64N(map[bool]int64{true: 20, false: 5000}[e.by.local])
	if e.by.local && e.StateKey == nil && g.rand.IntN(4) == 0 {
		e.txn = "m" + strconv.Itoa(n)
	}

	// Sometimes the other server has not received the last event yet. Then the next
	// event follows both.
	late := !e.by.local && e.StateKey == nil && len(g.tips) == 1 && len(g.before) > 0 && n+1 < g.total && g.rand.IntN(30) == 0
	if late {
		e.PrevEvents = g.before
	} else {
		e.PrevEvents = append([]string{}, g.tips...) // [] in JSON, not null
		g.depth++
	}
	e.Depth = g.depth
	e.AuthEvents = g.authOf(&e)

	// The id is made from all that an event says.
	_, server, _ := strings.Cut(e.by.id, ":")
	encoded, err := e.seal(server)
	if err != nil && g.failed == nil {
		g.failed = fmt.Errorf("encode an event: %w", err)
	}
	if late {
		g.tips = []string{g.tips[0], e.id}
	} else {
		g.before, g.tips = g.tips, []string{e.id}
	}
	if n == (g.total-1)/2 {
		g.summary.Middle = e.id
	}
	if e.txn != "" {
		g.rows.add("event_txn_id_device_id", e.id, e.RoomID, e.by.id, device, e.txn, e.received)
	}
	g.rows.add("events", e.id, e.RoomID, e.Type, e.StateKey, e.Sender, e.Depth, e.Depth, e.stream,
		e.OriginServerTS, e.received, true, false, false, "master")
	g.rows.add("event_json", e.id, e.RoomID, e.metadata(), encoded, formatVersion)
	for _, prev := range e.PrevEvents {
		g.rows.add("event_edges", e.id, prev, false)
	}
	for _, auth := range e.AuthEvents {
		g.rows.add("event_auth", e.id, auth, e.RoomID)
	}
	if e.StateKey != nil {
		g.state[stateKey{e.Type, *e.StateKey}] = &e
		g.makeGroup(&e)
	}
	g.rows.add("event_to_state_groups", e.id, g.group)
	return &e
}

// authOf returns the events that permit an event, of which the room has those
// that were made by then.
func (g *generator) authOf(e *event) []string {
	needed := []stateKey{{"m.room.create", ""}, {"m.room.power_levels", ""}, {"m.room.member", e.by.id}}
	if e.Type == "m.room.member" {
		needed = append(needed, stateKey{"m.room.join_rules", ""})
	}
	auth := []string{}
	for _, key := range needed {
		if event := g.state[key]; event != nil {
			auth = append(auth, event.id)
		}
	}
	return auth
}

// makeGroup adds a state group after a state event.
func (g *generator) makeGroup(e *event) {
	prev := g.group
	g.last.group++
	g.group = g.last.group
	g.rows.add("state_groups", g.group, e.RoomID, e.id)
	if g.summary.StateGroups%fullEvery == 0 {
		for key, set := range g.state {
			g.rows.add("state_groups_state", g.group, e.RoomID, key.kind, key.key, set.id)
		}
	} else {
		g.rows.add("state_group_edges", g.group, prev)
		g.rows.add("state_groups_state", g.group, e.RoomID, e.Type, *e.StateKey, e.id)
	}
	g.summary.StateGroups++
}

// end adds the rows about the current state of the room.
func (g *generator) end() {
	g.endThread()
	room, locals := g.room.ID, 0
	for key, e := range g.state {
		g.rows.add("current_state_events", e.id, room, key.kind, key.key, e.Content["membership"], e.stream)
	}
	for _, m := range g.members {
		if m.local {
			locals++
			g.rows.add("local_current_membership", room, m.id, m.join, "join", g.state[stateKey{"m.room.member", m.id}].stream)
		}
	}
	for _, id := range g.tips {
		g.rows.add("event_forward_extremities", id, room)
	}
	now := func(name, field string) any { // null if it is not set
		if e := g.state[stateKey{name, ""}]; e != nil {
			return e.Content[field]
		}
		return nil
	}
	name := now("m.room.name", "name").(string)
	var bumped any
	if g.bumped > 0 {
		bumped = g.bumped
	}
	g.rows.add("room_depth", room, 1)
	g.rows.add("sliding_sync_joined_rooms", room, g.newest, bumped, name, false)
	g.rows.add("room_stats_state", room, name, "public", "shared", true, now("m.room.topic", "topic"))
	g.rows.add("room_stats_current", room, len(g.state), len(g.members), 0, 0, 0, locals, g.newest, 0)

	g.summary.Room, g.summary.Name, g.summary.Creator = room, name, g.members[0].id
	g.summary.LastDepth, g.summary.LastStream = g.depth, g.newest
}

// localpart returns a user id's name without the server.
func localpart(id string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(id, "@"), ":")
	return name
}
