package purge_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// A world is what a homeserver's database holds, as far as a history purge is
// concerned. Its purge is the specification in loops and sets: slow, in one go,
// and with no idea of how the real one does it.
type world struct {
	Events       map[string]event       // by event id
	StateEvents  set[string]            // the events that have a state_events row
	Edges        set[edge]              // event_edges
	Forward      set[extremity]         // event_forward_extremities
	Backward     set[extremity]         // event_backward_extremities
	MinDepth     map[string]int64       // room_depth
	Rotated      int64                  // event_push_summary_stream_ordering
	Summaries    map[summaryKey]summary // event_push_summary
	Actions      map[string][]action    // event_push_actions, by event id
	SlidingSync  map[string]slidingSync // sliding_sync_joined_rooms, by room
	Relations    map[string]relation    // event_relations, by event id
	Threads      map[threadKey]thread   // threads
	Redactions   map[string]redaction   // redactions, by event id
	StateGroupOf map[string]int64       // event_to_state_groups, by event id
	StateGroups  map[int64]string       // state_groups: each group's room
	StateOf      map[int64]roomState    // state_groups_state
	PrevGroups   map[int64][]int64      // state_group_edges; more than one is broken
	Pending      set[int64]             // state_groups_pending_deletion
	OfEvent      map[string]rowsOf      // tables whose rows only come and go with their event
	Untouched    map[string]rowsOf      // tables that a purge has nothing to do with
}

type set[T comparable] = map[T]bool

type event struct {
	ID          string  `json:"event_id"`
	Room        string  `json:"room_id"`
	Topological int64   `json:"topological_ordering"`
	Depth       int64   `json:"depth"`
	Stream      *int64  `json:"stream_ordering"`
	Received    *int64  `json:"received_ts"`
	Sender      *string `json:"sender"`
	Outlier     bool    `json:"outlier"`
	Row         string  `json:"row"` // all of it but outlier
}

type edge struct {
	Event   string `json:"event_id"`
	Prev    string `json:"prev_event_id"`
	IsState bool   `json:"is_state"`
}

type extremity struct {
	Room  string `json:"room_id"`
	Event string `json:"event_id"`
}

type summaryKey struct {
	Room   string `json:"room_id"`
	User   string `json:"user_id"`
	Thread string `json:"thread_id"`
}

type summary struct {
	Notif int64 `json:"notif_count"`
	// A null and 0 are the same to everybody who reads it.
	Unread      int64  `json:"unread_count"`
	LastReceipt *int64 `json:"last_receipt_stream_ordering"`
}

type action struct {
	summaryKey
	Event  string `json:"event_id"`
	Stream *int64 `json:"stream_ordering"`
	Notif  *int   `json:"notif"`
	Unread *int   `json:"unread"`
}

type slidingSync struct {
	Room      string `json:"room_id"`
	Stream    int64  `json:"event_stream_ordering"`
	BumpStamp *int64 `json:"bump_stamp"`
}

type relation struct {
	Event string `json:"event_id"`
	To    string `json:"relates_to_id"`
	Type  string `json:"relation_type"`
	Key   string `json:"aggregation_key"`
}

type redaction struct {
	Event    string `json:"event_id"`
	Redacts  string `json:"redacts"`
	Censored bool   `json:"have_censored"`
	Recheck  bool   `json:"recheck"`
}

type threadKey struct {
	Room string `json:"room_id"`
	Root string `json:"thread_id"`
}

type thread struct {
	Latest      string `json:"latest_event_id"`
	Topological int64  `json:"topological_ordering"`
	Stream      int64  `json:"stream_ordering"`
}

type stateKey struct {
	Type string `json:"type"`
	Key  string `json:"state_key"`
}

type roomState map[stateKey]string // event ids

type rowsOf map[string][]string // by event id or room, each row as JSON

var (
	// ofEvent are the tables whose rows go with a deleted event, by a statement
	// or by a cascade, and have no other part in a purge.
	ofEvent = []string{
		"event_auth", "event_expiry", "event_failed_pull_attempts", "event_json", "event_labels",
		"event_push_actions_staging", "event_search", "event_txn_id_device_id", "federation_inbound_events_staging",
		"rejections", "sticky_events", "stream_ordering_to_exterm", "thread_subscriptions",
	}

	// untouched are room-scoped tables that a history purge must leave alone.
	untouched = []string{
		"blocked_rooms", "current_state_events", "local_current_membership", "room_aliases",
		"room_memberships", "room_retention", "room_stats_current", "room_stats_state", "rooms",
		"state_events",
	}
)

// load reads a whole database.
func load(ctx context.Context, conn *pgx.Conn) (*world, error) {
	now, err := snapshotOf(ctx, conn)
	if err != nil {
		return nil, err
	}
	return now.world()
}

// A snapshot is what a world is made of: the rows of each table, as JSON.
type snapshot map[string]json.RawMessage

// snapshotOf reads a whole database, in one statement and so at one moment.
func snapshotOf(ctx context.Context, conn *pgx.Conn) (snapshot, error) {
	tables := slices.Concat(ofEvent, untouched, []string{
		"event_backward_extremities", "event_edges", "event_forward_extremities", "event_push_actions",
		"event_push_summary", "event_push_summary_stream_ordering", "event_relations", "event_to_state_groups", "redactions", "room_depth",
		"sliding_sync_joined_rooms", "state_group_edges", "state_groups", "state_groups_pending_deletion",
		"state_groups_state", "threads",
	})
	query := `SELECT jsonb_build_object('events',
		(SELECT jsonb_agg(to_jsonb(t) || jsonb_build_object('row', (to_jsonb(t) - 'outlier')::text)) FROM events t)`
	for _, table := range tables {
		query += fmt.Sprintf(`, '%s', (SELECT jsonb_agg(t) FROM %[1]s t)`, table)
	}
	var raw snapshot
	if err := conn.QueryRow(ctx, query+`)`).Scan(&raw); err != nil {
		return nil, fmt.Errorf("load the world: %w", err)
	}
	return raw, nil
}

// world makes a new world of the snapshot.
func (raw snapshot) world() (*world, error) {
	w := &world{
		Events: map[string]event{}, StateEvents: set[string]{}, Edges: set[edge]{},
		Forward: set[extremity]{}, Backward: set[extremity]{}, MinDepth: map[string]int64{},
		Summaries: map[summaryKey]summary{}, Actions: map[string][]action{}, SlidingSync: map[string]slidingSync{},
		Relations: map[string]relation{}, Threads: map[threadKey]thread{}, Redactions: map[string]redaction{},
		StateGroupOf: map[string]int64{}, StateGroups: map[int64]string{}, StateOf: map[int64]roomState{},
		PrevGroups: map[int64][]int64{}, Pending: set[int64]{},
		OfEvent: map[string]rowsOf{}, Untouched: map[string]rowsOf{},
	}
	var errs []error
	rows := func(table string, into any) {
		if err := json.Unmarshal(raw[table], into); err != nil {
			errs = append(errs, fmt.Errorf("load %s: %w", table, err))
		}
	}

	var events []event
	rows("events", &events)
	for _, e := range events {
		w.Events[e.ID] = e
	}
	var stateEvents, forward, backward []extremity // all have a room and an event
	rows("state_events", &stateEvents)
	for _, e := range stateEvents {
		w.StateEvents[e.Event] = true
	}
	rows("event_forward_extremities", &forward)
	for _, x := range forward {
		w.Forward[x] = true
	}
	rows("event_backward_extremities", &backward)
	for _, x := range backward {
		w.Backward[x] = true
	}
	var edges []edge
	rows("event_edges", &edges)
	for _, e := range edges {
		w.Edges[e] = true
	}
	var depths []struct {
		Room  string `json:"room_id"`
		Depth int64  `json:"min_depth"`
	}
	rows("room_depth", &depths)
	for _, d := range depths {
		w.MinDepth[d.Room] = d.Depth
	}
	var rotated []struct {
		Stream int64 `json:"stream_ordering"`
	}
	rows("event_push_summary_stream_ordering", &rotated)
	for _, r := range rotated {
		w.Rotated = r.Stream
	}
	var summaries []struct {
		summaryKey
		summary
	}
	rows("event_push_summary", &summaries)
	for _, s := range summaries {
		w.Summaries[s.summaryKey] = s.summary
	}
	var actions []action
	rows("event_push_actions", &actions)
	for _, a := range actions {
		w.Actions[a.Event] = append(w.Actions[a.Event], a)
	}
	for _, of := range w.Actions {
		slices.SortFunc(of, func(a, b action) int {
			return cmp.Or(cmp.Compare(a.Room, b.Room), cmp.Compare(a.User, b.User))
		})
	}
	var sliding []slidingSync
	rows("sliding_sync_joined_rooms", &sliding)
	for _, s := range sliding {
		w.SlidingSync[s.Room] = s
	}
	var relations []relation
	rows("event_relations", &relations)
	for _, r := range relations {
		w.Relations[r.Event] = r
	}
	var redactions []redaction
	rows("redactions", &redactions)
	for _, r := range redactions {
		w.Redactions[r.Event] = r
	}
	var threads []struct {
		threadKey
		thread
	}
	rows("threads", &threads)
	for _, t := range threads {
		w.Threads[t.threadKey] = t.thread
	}

	var groups []struct {
		ID   int64  `json:"id"`
		Room string `json:"room_id"`
	}
	rows("state_groups", &groups)
	for _, g := range groups {
		w.StateGroups[g.ID] = g.Room
	}
	var grouped []struct {
		stateKey
		Event string `json:"event_id"`
		Group int64  `json:"state_group"`
		Prev  int64  `json:"prev_state_group"`
	}
	rows("event_to_state_groups", &grouped)
	for _, g := range grouped {
		w.StateGroupOf[g.Event] = g.Group
	}
	grouped = nil
	rows("state_groups_state", &grouped)
	for _, g := range grouped {
		if w.StateOf[g.Group] == nil {
			w.StateOf[g.Group] = roomState{}
		}
		if _, twice := w.StateOf[g.Group][g.stateKey]; twice {
			errs = append(errs, fmt.Errorf("state group %d has %v twice", g.Group, g.stateKey))
		}
		w.StateOf[g.Group][g.stateKey] = g.Event
	}
	grouped = nil
	rows("state_group_edges", &grouped)
	for _, g := range grouped {
		w.PrevGroups[g.Group] = append(w.PrevGroups[g.Group], g.Prev)
	}
	grouped = nil
	rows("state_groups_pending_deletion", &grouped)
	for _, g := range grouped {
		w.Pending[g.Group] = true
	}

	split := func(table string, by func(extremity) string) rowsOf {
		var all []json.RawMessage
		rows(table, &all)
		split := rowsOf{}
		for _, row := range all {
			var of extremity
			errs = append(errs, json.Unmarshal(row, &of))
			split[by(of)] = append(split[by(of)], string(row))
		}
		for _, rows := range split {
			slices.Sort(rows)
		}
		return split
	}
	for _, table := range ofEvent {
		w.OfEvent[table] = split(table, func(of extremity) string { return of.Event })
	}
	for _, table := range untouched {
		w.Untouched[table] = split(table, func(of extremity) string { return of.Room })
	}
	return w, errors.Join(errs...)
}

// errBeyond is the model's refusal to leave a room without its newest event.
var errBeyond = errors.New("beyond the forward extremities")

// purge is a whole purge of a room's history to the depth t, state groups
// included. With an error it has changed nothing.
func (w *world) purge(room string, t int64, deleteLocal bool, serverName string) error {
	// The guard.
	var extremities []int64
	for x := range w.Forward {
		if x.Room == room {
			extremities = append(extremities, w.Events[x.Event].Depth)
		}
	}
	if len(extremities) > 0 && slices.Max(extremities) < t {
		return errBeyond
	}

	// What is selected, and which of that is deleted.
	selected, deleted := set[string]{}, set[string]{}
	for id, e := range w.Events {
		if e.Room != room || e.Topological >= t {
			continue
		}
		deletable := !w.StateEvents[id] && (deleteLocal || isRemote(e.Sender, serverName))
		if deletable {
			deleted[id] = true
		}
		if deletable || !e.Outlier {
			selected[id] = true
		}
	}
	if len(selected) == 0 {
		return nil
	}

	// Backward extremities.
	candidates := set[string]{}
	for id := range selected {
		candidates[id] = true
	}
	for x := range w.Backward {
		if x.Room == room {
			candidates[x.Event] = true
			delete(w.Backward, x)
		}
	}
	for e := range w.Edges {
		if candidates[e.Prev] && !e.IsState && !selected[e.Event] && !w.Events[e.Event].Outlier {
			w.Backward[extremity{room, e.Prev}] = true
		}
	}

	// State groups of the selected events.
	groups := set[int64]{}
	for id := range selected {
		if group, ok := w.StateGroupOf[id]; ok {
			groups[group] = true
			delete(w.StateGroupOf, id)
		}
	}

	// The sliding sync row, before what it points at is gone.
	w.repointSlidingSync(room, deleted)

	// Push summaries, before the actions that they count are gone.
	for key, s := range w.Summaries {
		for id := range deleted {
			for _, a := range w.Actions[id] {
				if a.summaryKey != key || key.Room != room || a.Stream == nil || *a.Stream > w.Rotated ||
					(s.LastReceipt != nil && *a.Stream <= *s.LastReceipt) {
					continue
				}
				if a.Notif != nil && *a.Notif == 1 {
					s.Notif = max(s.Notif-1, 0)
				}
				if a.Unread != nil && *a.Unread == 1 {
					s.Unread = max(s.Unread-1, 0)
				}
			}
		}
		w.Summaries[key] = s
	}

	// Redactions whose target stays.
	for id, r := range w.Redactions {
		target, stays := w.Events[r.Redacts]
		switch stays = stays && !deleted[r.Redacts]; {
		case deleted[id] && stays && target.Room == room && w.counts(r):
			r.Censored = true
			w.Redactions[id] = r
			w.OfEvent["event_json"][r.Redacts] = []string{strings.Replace(w.OfEvent["event_json"][r.Redacts][0], secret, pruned, 1)}
		case deleted[id], deleted[r.Redacts] && r.Censored && w.Events[id].ID == "":
			delete(w.Redactions, id)
		}
	}

	// Everything of the deleted events.
	for id := range deleted {
		delete(w.Events, id)
		delete(w.Actions, id)
		delete(w.Forward, extremity{room, id})
	}
	w.forget(room, deleted)
	maps.DeleteFunc(w.Edges, func(e edge, _ bool) bool { return deleted[e.Event] })

	// The others leave the timeline.
	for id := range selected {
		if e, ok := w.Events[id]; ok {
			e.Outlier = true
			w.Events[id] = e
		}
	}

	// The room's depth.
	if _, ok := w.MinDepth[room]; ok {
		var depths []int64
		for e := range w.Edges {
			if w.Backward[extremity{room, e.Prev}] {
				depths = append(depths, w.Events[e.Event].Depth)
			}
		}
		w.MinDepth[room] = 0
		if len(depths) > 0 {
			w.MinDepth[room] = slices.Min(depths)
		}
	}

	w.collect(groups)
	return nil
}

// secret is what a redaction replaces with pruned in the JSON of a drawn event.
const (
	secret = `{\"body\": \"secret\"}`
	pruned = `{},\"unsigned\":{}`
)

// counts reports whether a redaction applies to its target.
func (w *world) counts(r redaction) bool {
	e, target := w.Events[r.Event], w.Events[r.Redacts]
	if !r.Recheck {
		return true
	}
	if e.Room != target.Room || strings.Contains(e.Row, `"rejection_reason": "`) || len(w.OfEvent["rejections"][r.Event]) > 0 {
		return false
	}
	if !strings.Contains(w.OfEvent["event_json"][r.Event][0], "recheck_redaction") {
		return true
	}
	_, domain, _ := strings.Cut(orEmpty(e.Sender), ":")
	_, other, _ := strings.Cut(orEmpty(target.Sender), ":")
	return e.Sender != nil && target.Sender != nil && domain == other
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// forget deletes what else tells of deleted events.
func (w *world) forget(room string, deleted set[string]) {
	for id := range deleted {
		for _, rows := range w.OfEvent {
			delete(rows, id)
		}
	}
	maps.DeleteFunc(w.Relations, func(id string, r relation) bool { return deleted[id] || deleted[r.To] })
	for key, t := range w.Threads {
		switch {
		case key.Room != room:
		case deleted[key.Root]:
			delete(w.Threads, key)
		case deleted[t.Latest]:
			delete(w.Threads, key)
			var newest *event
			for id, r := range w.Relations {
				e, ok := w.Events[id]
				if !ok || e.Room != room || e.Stream == nil || r.To != key.Root || r.Type != "m.thread" {
					continue
				}
				if newest == nil || cmp.Or(cmp.Compare(e.Topological, newest.Topological), cmp.Compare(*e.Stream, *newest.Stream)) > 0 {
					newest = &e
				}
			}
			if newest != nil {
				w.Threads[key] = thread{newest.ID, newest.Topological, *newest.Stream}
			}
		}
	}
}

// isRemote reports whether the sender is known to be of another server.
func isRemote(sender *string, serverName string) bool {
	if sender == nil {
		return false
	}
	_, domain, ok := strings.Cut(*sender, ":")
	return ok && domain != serverName
}

// repointSlidingSync moves what points at a deleted event to the newest of the
// others. If there is none the room is empty, and its row goes: it could only
// point at nothing.
func (w *world) repointSlidingSync(room string, deleted set[string]) {
	row, ok := w.SlidingSync[room]
	if !ok {
		return
	}
	gone := set[int64]{}
	var rest []int64
	for id, e := range w.Events {
		switch {
		case e.Room != room || e.Stream == nil:
		case deleted[id]:
			gone[*e.Stream] = true
		default:
			rest = append(rest, *e.Stream)
		}
	}
	if len(rest) == 0 {
		delete(w.SlidingSync, room)
		return
	}
	newest := slices.Max(rest)
	if gone[row.Stream] {
		row.Stream = newest
	}
	w.SlidingSync[room] = row
}

// collect deletes those of the groups that no event uses, and the unused ones
// that can be reached from these over unused ones.
func (w *world) collect(groups set[int64]) {
	used := set[int64]{}
	for _, group := range w.StateGroupOf {
		used[group] = true
	}
	doomed := set[int64]{}
	for frontier := slices.Collect(maps.Keys(groups)); len(frontier) > 0; frontier = frontier[1:] {
		group := frontier[0]
		if used[group] || doomed[group] {
			continue
		}
		doomed[group] = true
		frontier = append(frontier, w.PrevGroups[group]...)
		for other, prevs := range w.PrevGroups {
			if slices.Contains(prevs, group) {
				frontier = append(frontier, other)
			}
		}
	}
	// A group that stays and was a difference to one that goes gets its state
	// in full, as it is now.
	full := map[int64]roomState{}
	for group, prevs := range w.PrevGroups {
		if !doomed[group] && slices.ContainsFunc(prevs, func(prev int64) bool { return doomed[prev] }) {
			full[group] = w.resolve(group)
		}
	}
	for group, state := range full {
		w.StateOf[group] = state
		delete(w.PrevGroups, group)
	}
	for group := range doomed {
		delete(w.StateGroups, group)
		delete(w.StateOf, group)
		delete(w.PrevGroups, group)
		delete(w.Pending, group)
	}
}

// resolve returns the state that a group stands for: of the groups in its chain
// that say something about a key, the highest-numbered wins.
func (w *world) resolve(group int64) roomState {
	chain := set[int64]{}
	for next := []int64{group}; len(next) > 0; next = next[1:] {
		if !chain[next[0]] {
			chain[next[0]] = true
			next = append(next, w.PrevGroups[next[0]]...)
		}
	}
	state := roomState{}
	for _, group := range slices.Sorted(maps.Keys(chain)) {
		maps.Copy(state, w.StateOf[group])
	}
	return state
}

// diff says in what two worlds differ, "" if in nothing. How groups are stored
// is not compared, only what they stand for; but nothing may be stored for a
// group that is gone.
func diff(want, got *world) string {
	return gocmp.Diff(want.resolved(), got.resolved(), gocmp.AllowUnexported(action{}))
}

// diffCollected is diff, but lets an unused group stay that several others are
// differences to, as long as no more rows are stored for it all than before the
// purge, nor than the model stores.
func diffCollected(before, want, got *world) string {
	used, successors := set[int64]{}, map[int64]int{}
	for _, group := range got.StateGroupOf {
		used[group] = true
	}
	for _, prevs := range got.PrevGroups {
		for _, prev := range prevs {
			successors[prev]++
		}
	}
	if rows := got.stateRows(); rows > before.stateRows() || rows > want.stateRows() {
		return fmt.Sprintf("state is stored in %d rows: before in %d, by the model in %d", rows, before.stateRows(), want.stateRows())
	}
	collected := got.resolved()
	collected.StateGroups, collected.Pending = maps.Clone(got.StateGroups), maps.Clone(got.Pending)
	for group := range got.StateGroups {
		if _, stays := want.StateGroups[group]; stays {
			continue
		}
		if used[group] || successors[group] < 2 {
			return fmt.Sprintf("state group %d stays for nothing", group)
		}
		delete(collected.StateGroups, group)
		delete(collected.StateOf, group)
		delete(collected.Pending, group)
	}
	return gocmp.Diff(want.resolved(), collected, gocmp.AllowUnexported(action{}))
}

// stateRows counts the rows in which state is stored.
func (w *world) stateRows() (rows int) {
	for _, state := range w.StateOf {
		rows += len(state)
	}
	return rows
}

// diffButStateGroups is diff without the groups that no event uses any more and
// that are yet to be collected.
func diffButStateGroups(want, got *world) string {
	want, got = want.resolved(), got.resolved()
	for _, w := range []*world{want, got} {
		used := set[int64]{}
		for _, group := range w.StateGroupOf {
			used[group] = true
		}
		maps.DeleteFunc(w.StateOf, func(group int64, _ roomState) bool { return !used[group] })
		w.StateGroups, w.PrevGroups, w.Pending = nil, nil, nil
	}
	return diff(want, got)
}

// resolved is the world with every group's state in full, and no edges but
// those that are broken.
func (w *world) resolved() *world {
	resolved := *w
	resolved.StateOf, resolved.PrevGroups = map[int64]roomState{}, map[int64][]int64{}
	for group := range w.StateGroups {
		resolved.StateOf[group] = w.resolve(group)
	}
	for group, state := range w.StateOf {
		if _, ok := w.StateGroups[group]; !ok {
			resolved.StateOf[group] = state
		}
	}
	for group, prevs := range w.PrevGroups {
		_, ok := w.StateGroups[group]
		for _, prev := range prevs {
			_, prevOK := w.StateGroups[prev]
			ok = ok && prevOK
		}
		if !ok || len(prevs) > 1 {
			resolved.PrevGroups[group] = prevs
		}
	}
	return &resolved
}

// TestModelAgainstSynapse compares the model with what Synapse itself did to the
// rooms of a real database.
func TestModelAgainstSynapse(t *testing.T) {
	t.Parallel()
	const serverName = "lab.test"
	var operations []struct {
		Room    string `json:"room_id"`
		Op      string `json:"op"`
		Request struct {
			DeleteLocal bool   `json:"delete_local_events"`
			EventID     string `json:"purge_up_to_event_id"`
			Timestamp   int64  `json:"purge_up_to_ts"`
		} `json:"request"`
	}
	encoded, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "operations.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(encoded, &operations))
	before := restoredWorld(t, "synapse-1.160-corpus.dump")
	after := restoredWorld(t, "synapse-1.160-after.dump")

	// Rooms that were deleted, or made, are no business of a history purge.
	rooms, events := set[string]{}, set[string]{}
	for id, e := range before.Events {
		rooms[e.Room], events[id] = true, true
	}
	for _, op := range operations {
		if op.Op != "purge_history" {
			delete(rooms, op.Room)
		}
	}
	maps.DeleteFunc(events, func(id string, _ bool) bool { return !rooms[before.Events[id].Room] })

	purged := 0
	for _, op := range operations {
		if op.Op != "purge_history" {
			continue
		}
		cut := before.Events[op.Request.EventID].Topological
		if op.Request.EventID == "" {
			cut = before.depthAt(op.Room, op.Request.Timestamp)
		}
		require.NoError(t, before.purge(op.Room, cut, op.Request.DeleteLocal, serverName))
		purged++
	}
	require.Equal(t, 5, purged)
	require.Greater(t, len(rooms), purged, "a bystander, too")

	// Synapse leaves these rows.
	gone := keep(events, func(id string, _ bool) bool { return after.Events[id].ID == "" })
	for room := range rooms {
		after.forget(room, gone)
	}

	want, got := before.only(rooms, events), after.only(rooms, events)
	require.NotEmpty(t, want.Events)
	require.NotEmpty(t, want.Backward)
	require.NotEmpty(t, want.StateGroups)
	want.Rotated = got.Rotated // moved on with the events that ended the other rooms
	require.Empty(t, diff(want, got))
}

// restoredWorld returns what a dump of the fixtures holds.
func restoredWorld(t *testing.T, dump string) *world {
	t.Helper()
	url := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", dump))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	defer conn.Close(ctx)
	w, err := load(ctx, conn)
	require.NoError(t, err)
	return w
}

// depthAt is the depth of the first event that a purge up to a moment keeps.
func (w *world) depthAt(room string, ts int64) int64 {
	newest := func(upTo int64, ok func(event) bool) (newest event) {
		for _, e := range w.Events {
			if *e.Stream <= upTo && ok(e) && (newest.Stream == nil || *newest.Stream < *e.Stream) {
				newest = e
			}
		}
		return newest
	}
	var last int64
	for _, e := range w.Events {
		last = max(last, *e.Stream)
	}
	at := int64(0)
	for ; at <= last; at++ {
		e := newest(at, func(event) bool { return true })
		if e.Received != nil && *e.Received >= ts {
			break
		}
	}
	return newest(at, func(e event) bool { return e.Room == room && !e.Outlier }).Topological
}

// only returns the part of the world that belongs to the rooms and events, and
// what belongs to nothing.
func (w *world) only(rooms, events set[string]) *world {
	ofRoom := func(group int64) bool {
		room, ok := w.StateGroups[group]
		return !ok || rooms[room]
	}
	part := &world{
		Events:       keep(w.Events, func(_ string, e event) bool { return rooms[e.Room] }),
		StateEvents:  keep(w.StateEvents, func(id string, _ bool) bool { return events[id] }),
		Edges:        keep(w.Edges, func(e edge, _ bool) bool { return events[e.Event] }),
		Forward:      keep(w.Forward, func(x extremity, _ bool) bool { return rooms[x.Room] }),
		Backward:     keep(w.Backward, func(x extremity, _ bool) bool { return rooms[x.Room] }),
		MinDepth:     keep(w.MinDepth, func(room string, _ int64) bool { return rooms[room] }),
		Rotated:      w.Rotated,
		Summaries:    keep(w.Summaries, func(key summaryKey, _ summary) bool { return rooms[key.Room] }),
		Actions:      keep(w.Actions, func(id string, _ []action) bool { return events[id] }),
		SlidingSync:  keep(w.SlidingSync, func(room string, _ slidingSync) bool { return rooms[room] }),
		Relations:    keep(w.Relations, func(id string, _ relation) bool { return events[id] }),
		Threads:      keep(w.Threads, func(key threadKey, _ thread) bool { return rooms[key.Room] }),
		Redactions:   keep(w.Redactions, func(id string, _ redaction) bool { return events[id] }),
		StateGroupOf: keep(w.StateGroupOf, func(id string, _ int64) bool { return events[id] }),
		StateGroups:  keep(w.StateGroups, func(group int64, _ string) bool { return ofRoom(group) }),
		StateOf:      keep(w.StateOf, func(group int64, _ roomState) bool { return ofRoom(group) }),
		PrevGroups:   keep(w.PrevGroups, func(group int64, _ []int64) bool { return ofRoom(group) }),
		Pending:      keep(w.Pending, func(group int64, _ bool) bool { return ofRoom(group) }),
		OfEvent:      map[string]rowsOf{},
		Untouched:    map[string]rowsOf{},
	}
	for table, rows := range w.OfEvent {
		part.OfEvent[table] = keep(rows, func(id string, _ []string) bool { return events[id] })
	}
	for table, rows := range w.Untouched {
		part.Untouched[table] = keep(rows, func(room string, _ []string) bool { return rooms[room] })
	}
	return part
}

func keep[M ~map[K]V, K comparable, V any](m M, ok func(K, V) bool) M {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(k K, v V) bool { return !ok(k, v) })
	return m
}
