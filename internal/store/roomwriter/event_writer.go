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
			SELECT name FROM pg_catalog.unnest($1::text[]) AS name WHERE to_regclass(quote_ident(name)) IS NOT NULL
			UNION ALL
			SELECT $2 FROM pg_attribute
			WHERE attrelid = to_regclass('room_memberships')::oid AND attname = 'participant' AND NOT attisdropped)`,
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

// DropMembership ends a user's invitation or knock without an event. The user is then
// not known to have been in the room. A second call changes nothing.
func (w *EventWriter) DropMembership(ctx context.Context, room, user string) error {
	if err := w.Forget(ctx, room, user); err != nil {
		return err
	}
	statements := []string{`
		DELETE FROM local_current_membership WHERE user_id = $1 AND room_id = $2 AND membership IN ('invite', 'knock')`}
	if w.has("sliding_sync_membership_snapshots") {
		statements = append(statements, `
			DELETE FROM sliding_sync_membership_snapshots
			WHERE user_id = $1 AND room_id = $2 AND membership IN ('invite', 'knock')`)
	}
	for _, sql := range statements {
		if _, err := w.b.Exec(ctx, sql, user, room); err != nil {
			return fmt.Errorf("drop a membership: %w", err)
		}
	}
	return nil
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
	RoomReader
	w *EventWriter

	// indexed says that the room's state events have places in auth chains.
	indexed bool

	// summary is what room lists show of the room, nil until it is read.
	summary *roomSummary

	// changed is the place in the stream of the last event that has changed the state,
	// 0 if no such event was written. created says that the room is new.
	changed int64
	created bool
}

// Room locks a room for writing. It waits at most 5 s for the lock. An unknown room
// is [postgres.ErrNotFound]. A second call returns the same RoomWriter. It must not
// be called inside [EventWriter.Attempt], whose failure would release the lock.
func (w *EventWriter) Room(ctx context.Context, id string) (*RoomWriter, error) {
	if r := w.rooms[id]; r != nil {
		return r, nil
	}
	r := &RoomWriter{RoomReader: RoomReader{q: w.b, id: id}, w: w}
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
		err = r.readPartial(ctx)
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
	r := &RoomWriter{RoomReader: RoomReader{q: w.b, id: id, version: version}, w: w, indexed: indexed, created: true}
	w.rooms[id] = r
	return r, nil
}

// Now returns the time in Unix milliseconds.
func (w *EventWriter) Now(ctx context.Context) (int64, error) {
	var now int64
	if err := w.b.QueryRow(ctx, `SELECT `+nowInMilliseconds).Scan(&now); err != nil {
		return 0, fmt.Errorf("read the time: %w", err)
	}
	return now, nil
}

const nowInMilliseconds = `floor(extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint`
