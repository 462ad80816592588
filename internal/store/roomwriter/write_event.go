package roomwriter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/matrix"
	"lethe/internal/store/postgres"
)

// errPartialState refuses to write into a room whose state is incomplete, because
// the state after the event would be unknown.
var errPartialState = errors.New("not all of the room's state is known yet")

// errNoExtremities refuses to write a further event into a room without forward
// extremities, because other servers would reject it.
var errNoExtremities = errors.New("the room has no event to follow")

// A newEvent is an event that is being written.
type newEvent struct {
	matrix.SealedEvent
	stream, now int64

	// outOfBand says that the event is outside the room's timeline.
	outOfBand bool

	// replaces is the state event that the event replaces, empty if there is no such
	// event.
	replaces StateEvent
}

// Write writes an event that follows the extremities into all tables, with the state
// after it, as the room's newest event. After a membership with which no user of
// this server is joined any more, the room has no current state, because this server
// no longer learns of changes.
//
// The event's sender must be a user of this server who may send it.
func (r *RoomWriter) Write(ctx context.Context, extremities Extremities, event matrix.SealedEvent) error {
	if err := r.write(ctx, extremities, event); err != nil {
		return fmt.Errorf("write an event of type %s: %w", event.Type, err)
	}
	return nil
}

func (r *RoomWriter) write(ctx context.Context, extremities Extremities, event matrix.SealedEvent) error {
	if err := r.Writable(extremities); err != nil && event.Type != "m.room.create" {
		return err
	}
	e := newEvent{SealedEvent: event, now: extremities.Now}
	if e.StateKey != nil {
		key := matrix.StateKey{Type: e.Type, Key: *e.StateKey}
		state, err := r.State(ctx, extremities, key)
		if err != nil {
			return err
		}
		e.replaces = state[key]
	}
	if err := r.writeEvent(ctx, &e); err != nil {
		return err
	}
	if err := r.run(ctx, []statement{
		{"replace the forward extremities", `
			DELETE FROM event_forward_extremities WHERE room_id = $1 AND event_id = ANY ($2)`, []any{r.id, e.PrevEvents}},
		{"add a forward extremity", `
			INSERT INTO event_forward_extremities (event_id, room_id) VALUES ($1, $2)`, []any{e.ID, r.id}},
		{"write room_depth", `
			INSERT INTO room_depth AS d (room_id, min_depth) VALUES ($1, $2)
			ON CONFLICT (room_id) DO UPDATE SET min_depth = least(d.min_depth, excluded.min_depth)`, []any{r.id, e.Depth}},
		r.ifPresent("stream_ordering_to_exterm", "write stream_ordering_to_exterm", `
			INSERT INTO stream_ordering_to_exterm (stream_ordering, room_id, event_id)
			SELECT $2, room_id, event_id FROM event_forward_extremities WHERE room_id = $1`, r.id, e.stream),
		searchable(e),
		r.participation(e),
	}); err != nil {
		return err
	}
	if err := r.writeStateGroup(ctx, extremities, e); err != nil {
		return err
	}
	if e.StateKey != nil {
		departs, err := r.writeState(ctx, extremities, e)
		if err != nil || departs {
			return err
		}
	}
	if extremities.departed() {
		return nil
	}
	return r.showInRoomList(ctx, e)
}

// WriteOutOfBand writes a membership event of a local user into a room without
// joined local users. The event is outside the room's timeline, and for this server
// only.
func (r *RoomWriter) WriteOutOfBand(ctx context.Context, extremities Extremities, event matrix.SealedEvent) error {
	e := newEvent{SealedEvent: event, now: extremities.Now, outOfBand: true}
	err := r.writeEvent(ctx, &e)
	if err == nil {
		err = r.run(ctx, r.membership(e, nil))
	}
	if err != nil {
		return fmt.Errorf("write an out-of-band event of type %s: %w", event.Type, err)
	}
	return nil
}

// writeEvent writes the event itself, and takes its place in the stream.
func (r *RoomWriter) writeEvent(ctx context.Context, e *newEvent) error {
	if err := r.w.b.QueryRow(ctx, `SELECT nextval('events_stream_seq'::regclass)`).Scan(&e.stream); err != nil {
		return fmt.Errorf("take the next place in the stream: %w", err)
	}
	r.w.newest = max(r.w.newest, e.stream)
	if e.StateKey != nil && !e.outOfBand {
		r.changed = max(r.changed, e.stream)
	}
	text, err := e.withUnsigned()
	if err != nil {
		return err
	}
	format, ok := r.version.EventFormat()
	if !ok {
		return matrix.ErrRoomVersion
	}
	metadata := `{}`
	if e.outOfBand {
		metadata = `{"out_of_band_membership":true}`
	}
	// If a room is named after its create event, no event names the create event as an
	// auth event, but it is one for each of them.
	auth := e.AuthEvents
	if _, named := matrix.ServerOf(r.id); !named && e.Type != "m.room.create" {
		auth = append([]string{"$" + strings.TrimPrefix(r.id, "!")}, auth...)
	}
	statements := []statement{
		{"write events", `
			INSERT INTO events (event_id, room_id, type, state_key, sender, topological_ordering, depth, stream_ordering,
				origin_server_ts, received_ts, processed, outlier, contains_url, instance_name)
			VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8, $9, true, $10, false, $11)`, []any{
			e.ID, r.id, e.Type, e.StateKey, e.Sender, e.Depth, e.stream, e.OriginServerTS, e.now, e.outOfBand, r.w.instance,
		}},
		{"write event_json", `
			INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
			VALUES ($1, $2, $3, $4, $5)`, []any{e.ID, r.id, metadata, text, format}},
		{"write event_edges", `
			INSERT INTO event_edges (event_id, prev_event_id, is_state)
			SELECT $1, pg_catalog.unnest($2::text[]), false`, []any{e.ID, e.PrevEvents}},
	}
	if e.StateKey != nil {
		statements = append(statements,
			statement{"write event_auth", `
				INSERT INTO event_auth (event_id, auth_id, room_id)
				SELECT $1, pg_catalog.unnest($3::text[]), $2`, []any{e.ID, r.id, auth}},
			statement{
				"write state_events", `
				INSERT INTO state_events (event_id, room_id, type, state_key) VALUES ($1, $2, $3, $4)`,
				[]any{e.ID, r.id, e.Type, *e.StateKey},
			})
	}
	if err := r.run(ctx, statements); err != nil {
		return err
	}
	if e.StateKey == nil || !r.indexed {
		return nil
	}
	return r.writeAuthChain(ctx, *e, auth)
}

// withUnsigned returns the event's JSON with the data that only this server stores.
func (e newEvent) withUnsigned() (string, error) {
	encoded, err := json.Marshal(struct {
		Age      int64  `json:"age_ts"`
		Replaces string `json:"replaces_state,omitempty"`
	}{e.OriginServerTS, e.replaces.ID})
	if err != nil {
		return "", fmt.Errorf("encode an event: %w", err)
	}
	// Canonical JSON is sorted, and "unsigned" is the last key of an event.
	return strings.TrimSuffix(string(e.JSON), "}") + `,"unsigned":` + string(encoded) + `}`, nil
}

// searchable returns the statement that makes the event searchable.
func searchable(e newEvent) statement {
	key := map[string]string{"m.room.message": "body", "m.room.name": "name"}[e.Type]
	text, ok := e.Content[key].(string)
	if !ok {
		return statement{}
	}
	return statement{
		"write event_search", `
		INSERT INTO event_search (event_id, room_id, key, vector, origin_server_ts, stream_ordering)
		VALUES ($1, $2, $3, to_tsvector('english'::regconfig, $4), $5, $6)`,
		[]any{e.ID, e.RoomID, "content." + key, postgres.Sanitize(text), e.OriginServerTS, e.stream},
	}
}

// participation returns the statement that marks the sender of a message as a
// participant of the room.
func (r *RoomWriter) participation(e newEvent) statement {
	if e.Type != "m.room.message" {
		return statement{}
	}
	return r.ifPresent(participantColumn, "write room_memberships", `
		UPDATE room_memberships SET participant = true
		WHERE event_id = (SELECT event_id FROM local_current_membership WHERE user_id = $1 AND room_id = $2)`, e.Sender, r.id)
}

// maxHops is the maximum length of a state group's chain before a group is stored in
// full.
const maxHops = 100

// writeStateGroup stores the state of the room at the event. If the event sets
// state, that is the state after it.
func (r *RoomWriter) writeStateGroup(ctx context.Context, extremities Extremities, e newEvent) error {
	prev, hops := extremities.group, 0
	if extremities.departed() {
		prev = extremities.last
	}
	if prev != nil {
		if err := r.takeIntoUse(ctx, *prev); err != nil {
			return err
		}
		if e.StateKey == nil {
			return r.run(ctx, []statement{inGroup(e, *prev)})
		}
		if err := r.w.b.QueryRow(ctx, `
			WITH RECURSIVE chain (state_group, hops) AS (
				SELECT $1::bigint, 1
				UNION
				SELECT e.prev_state_group, chain.hops + 1
				FROM chain JOIN state_group_edges e ON e.state_group = chain.state_group
				WHERE chain.hops < $2
			)
			SELECT max(hops) FROM chain`, *prev, maxHops).Scan(&hops); err != nil {
			return fmt.Errorf("measure the state group's chain: %w", err)
		}
	}
	var group int64
	if err := r.w.b.QueryRow(ctx, `SELECT nextval('state_group_id_seq'::regclass)`).Scan(&group); err != nil {
		return fmt.Errorf("take the next state group: %w", err)
	}
	statements := []statement{{"write state_groups", `
		INSERT INTO state_groups (id, room_id, event_id) VALUES ($1, $2, $3)`, []any{group, r.id, e.ID}}}
	switch {
	case prev == nil:
		// Where the extremities differ, only the current state has their resolved
		// state.
		statements = append(statements, statement{"write the current state as a group", `
			INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
			SELECT $1, room_id, type, state_key, event_id FROM current_state_events WHERE room_id = $2`, []any{group, r.id}})
	case hops < maxHops:
		statements = append(statements, statement{"write state_group_edges", `
			INSERT INTO state_group_edges (state_group, prev_state_group) VALUES ($1, $2)`, []any{group, *prev}})
	default:
		statements = append(statements, statement{"write a state group in full", `
			WITH RECURSIVE ` + chainOf("$3") + `
			INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
			SELECT DISTINCT ON (s.type, s.state_key) $1::bigint, $2, s.type, s.state_key, s.event_id
			FROM chain JOIN state_groups_state s ON s.state_group = chain.state_group
			ORDER BY s.type, s.state_key, s.state_group DESC`, []any{group, r.id, *prev}})
	}
	if e.StateKey != nil {
		statements = append(statements,
			statement{
				"take what the event replaces out of its group", `
				DELETE FROM state_groups_state WHERE state_group = $1 AND type = $2 AND state_key = $3`,
				[]any{group, e.Type, *e.StateKey},
			},
			statement{"write state_groups_state", `
				INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
				VALUES ($1, $2, $3, $4, $5)`, []any{group, r.id, e.Type, *e.StateKey, e.ID}})
	}
	return r.run(ctx, append(statements, inGroup(e, group)))
}

func inGroup(e newEvent, group int64) statement {
	return statement{"write event_to_state_groups", `
		INSERT INTO event_to_state_groups (event_id, state_group) VALUES ($1, $2)`, []any{e.ID, group}}
}

// takeIntoUse keeps collectors of state groups from deleting this one.
func (r *RoomWriter) takeIntoUse(ctx context.Context, group int64) error {
	var id int64
	err := r.w.b.QueryRow(ctx, `SELECT id FROM state_groups WHERE id = $1 FOR KEY SHARE`, group).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = errors.New("it does not exist")
	}
	if err != nil {
		return fmt.Errorf("take state group %d into use: %w", group, err)
	}
	return r.run(ctx, []statement{r.ifPresent("state_groups_pending_deletion", "take a state group into use", `
		DELETE FROM state_groups_pending_deletion WHERE state_group = $1`, group)})
}

// A statement is a writing statement with its arguments. A statement without SQL is
// skipped.
type statement struct {
	what, sql string
	args      []any
}

// ifPresent returns a statement for a table that may be absent.
func (r *RoomWriter) ifPresent(table, what, sql string, args ...any) statement {
	if !r.w.has(table) {
		return statement{}
	}
	return statement{what, sql, args}
}

// run runs the statements in one round trip.
func (r *RoomWriter) run(ctx context.Context, statements []statement) error {
	var all []postgres.Statement
	for _, s := range statements {
		if s.sql != "" {
			all = append(all, postgres.Statement{What: s.what, SQL: s.sql, Args: s.args})
		}
	}
	_, err := r.w.b.Run(ctx, all)
	return err
}
