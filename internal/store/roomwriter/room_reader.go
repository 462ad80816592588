package roomwriter

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
)

// A RoomReader reads what decides about a room's next event. It comes from [ReadRoom]
// or is part of a [RoomWriter].
type RoomReader struct {
	q       postgres.Querier
	id      string
	version matrix.RoomVersion

	// partial says that not all of the room's state is known.
	partial bool
}

// ReadRoom runs do with a room that it does not lock. The RoomReader must not be used
// after do. An unknown room is [postgres.ErrNotFound]. An error of do is returned as
// it is.
func ReadRoom(ctx context.Context, db *postgres.DB, id string, do func(*RoomReader) error) error {
	return db.InTransaction(ctx, func(tx pgx.Tx) error {
		r := &RoomReader{q: tx, id: id}
		var hasPartial bool
		err := tx.QueryRow(ctx, `
			SELECT coalesce(room_version, ''), to_regclass('partial_state_rooms') IS NOT NULL
			FROM rooms WHERE room_id = $1`, id).Scan(&r.version, &hasPartial)
		if errors.Is(err, pgx.ErrNoRows) {
			err = postgres.ErrNotFound
		}
		if err == nil && hasPartial {
			err = r.readPartial(ctx)
		}
		if err != nil {
			return fmt.Errorf("read the room: %w", err)
		}
		return do(r)
	})
}

func (r *RoomReader) readPartial(ctx context.Context) error {
	return r.q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM partial_state_rooms WHERE room_id = $1)`, r.id).Scan(&r.partial)
}

// ID returns the room's id.
func (r *RoomReader) ID() string { return r.id }

// Version returns the room's version, which may be any text.
func (r *RoomReader) Version() matrix.RoomVersion { return r.version }

// Writable returns nil if an event may follow the extremities, and otherwise the error
// with which [RoomWriter.Write] would fail for any event but the first.
func (r *RoomReader) Writable(extremities Extremities) error {
	switch {
	case r.partial:
		return errPartialState
	case len(extremities.Prev) == 0:
		return errNoExtremities
	}
	return nil
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

// Extremities returns where the room's next event attaches.
func (r *RoomReader) Extremities(ctx context.Context) (Extremities, error) {
	var t Extremities
	if err := r.q.QueryRow(ctx, `
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
		        HAVING count(*) = pg_catalog.count(state_group) AND min(state_group) = max(state_group)),
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
func (r *RoomReader) State(ctx context.Context, extremities Extremities, keys ...matrix.StateKey) (map[matrix.StateKey]StateEvent, error) {
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
	rows, err := r.q.Query(ctx, `
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
func (r *RoomReader) HasRemoteMembers(ctx context.Context, extremities Extremities, server string) (bool, error) {
	remote, args := r.remote(extremities, server)
	var found bool
	if err := r.q.QueryRow(ctx, remote+` SELECT EXISTS (SELECT FROM remote)`, args...).Scan(&found); err != nil {
		return false, fmt.Errorf("look for remote members: %w", err)
	}
	return found, nil
}

// RemoteServers returns the names of the other servers with users who are joined to
// the room, by the state at the extremities. For a user without a server name it
// returns the user's id.
func (r *RoomReader) RemoteServers(ctx context.Context, extremities Extremities, server string) ([]string, error) {
	remote, args := r.remote(extremities, server)
	rows, err := r.q.Query(ctx, remote+` SELECT DISTINCT name COLLATE "C" FROM remote ORDER BY 1`, args...)
	if err != nil {
		return nil, fmt.Errorf("list the remote servers: %w", err)
	}
	servers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the remote servers: %w", err)
	}
	return servers, nil
}

// remote returns the common table expression remote, which has the server of each
// joined user of another server, and its arguments.
func (r *RoomReader) remote(extremities Extremities, server string) (cte string, args []any) {
	members, from := `members AS (
			SELECT state_key, membership FROM current_state_events WHERE room_id = $1 AND type = 'm.room.member'
		)`, any(r.id)
	if !extremities.Current {
		members, from = chainOf("$1")+`, members AS (
			SELECT DISTINCT ON (s.state_key) s.state_key, m.membership
			FROM chain
			JOIN state_groups_state s ON s.state_group = chain.state_group AND s.type = 'm.room.member'
			LEFT JOIN room_memberships m ON m.event_id = s.event_id
			ORDER BY s.state_key, s.state_group DESC
		)`, extremities.last
	}
	const name = `substr(state_key, nullif(strpos(state_key, ':'), 0) + 1)`
	return `
		WITH RECURSIVE ` + members + `, remote (name) AS (
			SELECT coalesce(` + name + `, state_key) FROM members
			WHERE membership = 'join' AND ` + name + ` IS DISTINCT FROM $2
		)`, []any{from, server}
}

// ReferenceHashes returns the hashes by which other events refer to the events with
// these ids, if the room's version needs them. It leaves out the events that are lost
// or cannot be read.
func (r *RoomReader) ReferenceHashes(ctx context.Context, ids []string) (map[string]string, error) {
	if !r.version.HasReferenceHashes() {
		return nil, nil
	}
	rows, err := r.q.Query(ctx, `SELECT event_id, json FROM event_json WHERE event_id = ANY ($1)`, ids)
	if err != nil {
		return nil, fmt.Errorf("read the events to refer to: %w", err)
	}
	hashes := map[string]string{}
	var id, text string
	if _, err := pgx.ForEachRow(rows, []any{&id, &text}, func() error {
		if hash, err := matrix.ReferenceHash(r.version, []byte(text)); err == nil {
			hashes[id] = hash
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read the events to refer to: %w", err)
	}
	return hashes, nil
}
