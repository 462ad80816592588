package roomwriter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// An EventWriter writes events as part of a batch. It writes them as if the
// homeserver itself had made them. No homeserver may run on the database meanwhile:
// it would not notice them.
type EventWriter struct {
	b       *journal.Batch
	present []string // of optionalTables
	rooms   map[string]*RoomWriter

	// instance is the name of the Synapse process that the events seem to come from,
	// and newest the last of their positions in the stream.
	instance string
	newest   int64
}

// Write runs do with an EventWriter of the batch, which must not be used after do.
// An error of do is returned as it is. After an error the caller must roll the batch
// back.
func Write(ctx context.Context, b *journal.Batch, do func(*EventWriter) error) error {
	w := &EventWriter{b: b, rooms: map[string]*RoomWriter{}}
	if err := w.begin(ctx); err != nil {
		return fmt.Errorf("begin to write events: %w", err)
	}
	if err := do(w); err != nil {
		return err
	}
	if err := w.finish(ctx); err != nil {
		return fmt.Errorf("finish the written rooms: %w", err)
	}
	return nil
}

// optionalTables are the tables that some versions of Synapse, or the embedded
// schema, do not have.
var optionalTables = []string{
	"event_auth_chain_links",
	"partial_state_rooms",
	"profiles",
	"sliding_sync_joined_rooms",
	"sliding_sync_joined_rooms_to_recalculate",
	"sliding_sync_membership_snapshots",
	"state_groups_pending_deletion",
	"stream_ordering_to_exterm",
	"stream_positions",
	"user_stats_current",
}

// participantColumn names a column in present that some version of Synapse has
// added.
const participantColumn = "room_memberships.participant"

func (w *EventWriter) has(table string) bool { return slices.Contains(w.present, table) }

func (w *EventWriter) begin(ctx context.Context) error {
	if err := w.b.QueryRow(ctx, `
		SELECT ARRAY(
			SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(quote_ident(name)) IS NOT NULL
			UNION ALL
			SELECT $2 FROM pg_attribute
			WHERE attrelid = to_regclass('room_memberships') AND attname = 'participant' AND NOT attisdropped)`,
		optionalTables, participantColumn).Scan(&w.present); err != nil {
		return fmt.Errorf("look for tables: %w", err)
	}
	w.instance = "master"
	if !w.has("stream_positions") {
		return nil
	}
	// Where other processes write Synapse's events, Synapse does not read the events
	// of a process that it does not know when it starts.
	err := w.b.QueryRow(ctx, `
		SELECT instance_name FROM stream_positions WHERE stream_name = 'events'
		ORDER BY instance_name <> 'master', instance_name LIMIT 1`).Scan(&w.instance)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("find who writes events: %w", err)
	}
	return nil
}

// Attempt runs do, and undoes what it wrote if it fails. If do's own decision or the
// data is to blame, its error is returned as refused. Any other failure, of the
// connection, a lock or the server, is an err, after which the transaction cannot go
// on.
func (w *EventWriter) Attempt(ctx context.Context, do func() error) (refused, err error) {
	undone, err := w.b.Savepoint(ctx, do)
	if undone != nil && (ctx.Err() != nil || !postgres.IsDataError(undone)) {
		return nil, undone
	}
	return undone, err
}

// A Membership is a local user's membership in a room.
type Membership struct {
	// Membership is "join", "invite", "knock", "leave" or "ban", or "" if the user
	// never had one.
	Membership string

	// EventID is the id of the membership's event.
	EventID string

	// Outlier says that the event is outside the room's timeline.
	Outlier bool
}

// Membership returns a local user's present membership in a room.
func (w *EventWriter) Membership(ctx context.Context, room, user string) (Membership, error) {
	var m Membership
	err := w.b.QueryRow(ctx, `
		SELECT m.membership, m.event_id, coalesce(e.outlier, false)
		FROM local_current_membership m LEFT JOIN events e USING (event_id)
		WHERE m.user_id = $1 AND m.room_id = $2`, user, room).Scan(&m.Membership, &m.EventID, &m.Outlier)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Membership{}, fmt.Errorf("read a membership: %w", err)
	}
	return m, nil
}

// Profile returns the display name and the avatar's URL of the local user with this
// localpart, nil for each that the user does not have.
func (w *EventWriter) Profile(ctx context.Context, localpart string) (displayName, avatarURL *string, err error) {
	if !w.has("profiles") {
		return nil, nil, nil
	}
	err = w.b.QueryRow(ctx, `
		SELECT nullif(displayname, ''), nullif(avatar_url, '') FROM profiles WHERE user_id = $1`, localpart).
		Scan(&displayName, &avatarURL)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, nil, fmt.Errorf("read a profile: %w", err)
	}
	return displayName, avatarURL, nil
}

// EventJSON returns the JSON of an event, or [postgres.ErrNotFound].
func (w *EventWriter) EventJSON(ctx context.Context, id string) ([]byte, error) {
	var text string
	err := w.b.QueryRow(ctx, `SELECT json FROM event_json WHERE event_id = $1`, id).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		err = postgres.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	return []byte(text), nil
}

// Forget makes a user who has left the room forget it. A second call changes
// nothing.
func (w *EventWriter) Forget(ctx context.Context, room, user string) error {
	statements := []string{`UPDATE room_memberships SET forgotten = 1 WHERE user_id = $1 AND room_id = $2`}
	if w.has("sliding_sync_membership_snapshots") {
		statements = append(statements,
			`UPDATE sliding_sync_membership_snapshots SET forgotten = 1 WHERE user_id = $1 AND room_id = $2`)
	}
	for _, sql := range statements {
		if _, err := w.b.Exec(ctx, sql, user, room); err != nil {
			return fmt.Errorf("forget the room: %w", err)
		}
	}
	return nil
}

// A RoomWriter writes events into one room. Until the transaction ends, no other
// transaction can write into the room or delete it. It comes from [EventWriter.Room]
// or [EventWriter.NewRoom].
type RoomWriter struct {
	w       *EventWriter
	id      string
	version matrix.RoomVersion

	// indexed says that the room's state events have places in auth chains, and partial
	// that not all of its state is known.
	indexed, partial bool

	// summary is what room lists show of the room, nil until it is read.
	summary *roomSummary

	// changed is the place in the stream of the last event that has changed the state,
	// 0 if no such event was written. created says that the room is new.
	changed int64
	created bool
}

// ID returns the room's id.
func (r *RoomWriter) ID() string { return r.id }

// Version returns the room's version, which may be any text.
func (r *RoomWriter) Version() matrix.RoomVersion { return r.version }

// Room locks a room for writing. It waits at most 5 s for the lock. An unknown room
// is [postgres.ErrNotFound]. A second call returns the same RoomWriter. It must not
// be called inside [EventWriter.Attempt], whose failure would release the lock.
func (w *EventWriter) Room(ctx context.Context, id string) (*RoomWriter, error) {
	if r := w.rooms[id]; r != nil {
		return r, nil
	}
	r := &RoomWriter{w: w, id: id}
	// Processes of a homeserver that persist events share this lock, since a single
	// process persists all events of a room. Here the lock is exclusive, since two
	// jobs may write into the same new room.
	err := w.b.QueryRow(ctx, `
		SELECT coalesce(room_version, ''), coalesce(has_auth_chain_index, false)
		FROM rooms WHERE room_id = $1 FOR NO KEY UPDATE`, id).Scan(&r.version, &r.indexed)
	if errors.Is(err, pgx.ErrNoRows) {
		err = postgres.ErrNotFound
	}
	if err == nil && w.has("partial_state_rooms") {
		err = w.b.QueryRow(ctx, `SELECT EXISTS (SELECT FROM partial_state_rooms WHERE room_id = $1)`, id).Scan(&r.partial)
	}
	if err != nil {
		return nil, fmt.Errorf("lock the room: %w", err)
	}
	r.indexed = r.indexed && w.has("event_auth_chain_links")
	w.rooms[id] = r
	return r, nil
}

// NewRoom makes a room without events, which is not in the public directory. A taken
// id is [journal.ErrExists].
func (w *EventWriter) NewRoom(ctx context.Context, id string, version matrix.RoomVersion, creator string) (*RoomWriter, error) {
	indexed := w.has("event_auth_chain_links")
	tag, err := w.b.Exec(ctx, `
		INSERT INTO rooms (room_id, is_public, creator, room_version, has_auth_chain_index)
		VALUES ($1, false, $2, $3, $4) ON CONFLICT DO NOTHING`, id, creator, version, indexed)
	if err == nil && tag.RowsAffected() == 0 {
		err = journal.ErrExists
	}
	if err != nil {
		return nil, fmt.Errorf("make a room: %w", err)
	}
	r := &RoomWriter{w: w, id: id, version: version, indexed: indexed, created: true}
	w.rooms[id] = r
	return r, nil
}

// maxPrevEvents is the maximum number of events that a written event follows. Matrix
// allows 20.
const maxPrevEvents = 10

// Extremities are where a room's next event attaches. They are valid until an event
// is written.
type Extremities struct {
	// Prev are the ids of the events that the next one follows: up to 10 of the forward
	// extremities, the deepest first. It is empty if the room has no forward extremity.
	Prev []string

	// Depth is the next event's depth, and Now the time in Unix milliseconds.
	Depth, Now int64

	// Current says that the room has a current state: a user of this server is in it.
	Current bool

	// group is the state group that all forward extremities have, nil if they differ.
	// last is the state group of the newest extremity that has one.
	group, last *int64
}

// departed reports whether all users of this server have left the room.
func (t Extremities) departed() bool { return !t.Current && len(t.Prev) > 0 }

// maxDepth is the largest integer that an event may have.
const maxDepth = 1<<53 - 1

// NextDepth returns the depth of an event that follows events of up to the given
// depth. The result is always a valid depth, even after a hostile one.
func NextDepth(depth int64) int64 { return max(min(depth, maxDepth-1), 0) + 1 }

// Now returns the time in Unix milliseconds.
func (w *EventWriter) Now(ctx context.Context) (int64, error) {
	var now int64
	if err := w.b.QueryRow(ctx, `SELECT `+nowInMilliseconds).Scan(&now); err != nil {
		return 0, fmt.Errorf("read the time: %w", err)
	}
	return now, nil
}

const nowInMilliseconds = `floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint`

// Extremities returns where the room's next event attaches.
func (r *RoomWriter) Extremities(ctx context.Context) (Extremities, error) {
	var t Extremities
	if err := r.w.b.QueryRow(ctx, `
		WITH tips AS MATERIALIZED (
			SELECT x.event_id, e.depth, e.stream_ordering, g.state_group
			FROM event_forward_extremities x
			JOIN events e ON e.event_id = x.event_id
			LEFT JOIN event_to_state_groups g ON g.event_id = x.event_id
			WHERE x.room_id = $1
		)
		SELECT ARRAY(SELECT event_id FROM tips ORDER BY depth DESC, stream_ordering DESC, event_id LIMIT $2),
		       coalesce((SELECT max(depth) FROM tips), 0), `+nowInMilliseconds+`,
		       EXISTS (SELECT FROM current_state_events WHERE room_id = $1),
		       (SELECT min(state_group) FROM tips
		        HAVING count(*) = count(state_group) AND min(state_group) = max(state_group)),
		       (SELECT state_group FROM tips WHERE state_group IS NOT NULL
		        ORDER BY depth DESC, stream_ordering DESC, event_id LIMIT 1)`,
		r.id, maxPrevEvents).Scan(&t.Prev, &t.Depth, &t.Now, &t.Current, &t.group, &t.last); err != nil {
		return Extremities{}, fmt.Errorf("read the forward extremities: %w", err)
	}
	t.Depth = NextDepth(t.Depth)
	return t, nil
}

// A StateEvent is an event of a room's state.
type StateEvent struct {
	ID string

	// Membership is the membership that the event sets, "" if it is not a membership
	// event.
	Membership string

	// JSON is the event's JSON, nil if it is lost.
	JSON []byte
}

// State returns the room's state events for the keys, at the extremities. It is the
// current state: where the extremities differ, a homeserver has resolved it. After
// all users of this server have left there is no current state, and State returns
// that of the newest extremity.
func (r *RoomWriter) State(ctx context.Context, extremities Extremities, keys ...matrix.StateKey) (map[matrix.StateKey]StateEvent, error) {
	types, stateKeys := make([]string, len(keys)), make([]string, len(keys))
	for i, key := range keys {
		types[i], stateKeys[i] = key.Type, key.Key
	}
	found, group := `
		SELECT k.type, k.state_key, c.event_id
		FROM wanted k JOIN current_state_events c
		  ON c.room_id = $1 AND c.type = k.type AND c.state_key = k.state_key
		WHERE $4::bigint IS NULL`, (*int64)(nil)
	if !extremities.Current {
		found, group = `
		SELECT DISTINCT ON (k.type, k.state_key) k.type, k.state_key, s.event_id
		FROM chain
		JOIN state_groups_state s ON s.state_group = chain.state_group
		JOIN wanted k ON k.type = s.type AND k.state_key = s.state_key
		WHERE $1 <> ''
		ORDER BY k.type, k.state_key, s.state_group DESC`, extremities.last
	}
	rows, err := r.w.b.Query(ctx, `
		WITH RECURSIVE `+chainOf("$4")+`, wanted AS (
			SELECT * FROM unnest($2::text[], $3::text[]) AS k (type, state_key)
		), found AS (`+found+`)
		SELECT f.type, f.state_key, f.event_id, coalesce(m.membership, ''), j.json
		FROM found f
		LEFT JOIN room_memberships m ON m.event_id = f.event_id
		LEFT JOIN event_json j ON j.event_id = f.event_id`, r.id, types, stateKeys, group)
	if err != nil {
		return nil, fmt.Errorf("read the room's state: %w", err)
	}
	state := map[matrix.StateKey]StateEvent{}
	var key matrix.StateKey
	var id, membership string
	var text *string
	if _, err := pgx.ForEachRow(rows, []any{&key.Type, &key.Key, &id, &membership, &text}, func() error {
		event := StateEvent{ID: id, Membership: membership}
		if text != nil {
			event.JSON = []byte(*text)
		}
		state[key] = event
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the room's state: %w", err)
	}
	return state, nil
}

// chainOf returns the common table expression chain: a state group and all groups
// that it is a difference to. UNION, not UNION ALL, so that it also ends if a chain
// is circular.
func chainOf(group string) string {
	return `chain (state_group) AS (
			SELECT ` + group + `::bigint
			UNION
			SELECT e.prev_state_group FROM chain JOIN state_group_edges e ON e.state_group = chain.state_group
		)`
}

// HasRemoteMembers reports whether a user of another server is joined to the room,
// by the state at the extremities. A user without a server name counts as remote.
func (r *RoomWriter) HasRemoteMembers(ctx context.Context, extremities Extremities, server string) (bool, error) {
	const remote = `membership = 'join' AND substr(state_key, nullif(strpos(state_key, ':'), 0) + 1) IS DISTINCT FROM $2`
	sql, args := `
		SELECT EXISTS (
			SELECT FROM current_state_events WHERE room_id = $1 AND type = 'm.room.member' AND `+remote+`)`, []any{r.id, server}
	if !extremities.Current {
		sql, args = `
		WITH RECURSIVE `+chainOf("$1")+`, members AS (
			SELECT DISTINCT ON (s.state_key) s.state_key, m.membership
			FROM chain
			JOIN state_groups_state s ON s.state_group = chain.state_group AND s.type = 'm.room.member'
			LEFT JOIN room_memberships m ON m.event_id = s.event_id
			ORDER BY s.state_key, s.state_group DESC
		)
		SELECT EXISTS (SELECT FROM members WHERE `+remote+`)`, []any{extremities.last, server}
	}
	var found bool
	if err := r.w.b.QueryRow(ctx, sql, args...).Scan(&found); err != nil {
		return false, fmt.Errorf("look for remote members: %w", err)
	}
	return found, nil
}
