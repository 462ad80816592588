package expiry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// ErrNotAbandoned is returned instead of deleting a room that is not abandoned, for
// a delete that requires it. The error's text ends with the [Abandonment].
var ErrNotAbandoned = errors.New("the room is not abandoned")

// An AbandonedRule says which rooms are abandoned.
type AbandonedRule struct {
	// ServerName is this server's name.
	ServerName string

	// Before is a moment in Unix milliseconds. The last user of this server must have
	// left before it.
	Before int64

	// Exclude are rooms that are never abandoned: room ids, aliases, and server names,
	// which stand for all rooms of the server.
	Exclude []string
}

// An Abandonment is the result of applying an [AbandonedRule] to a room.
type Abandonment string

const (
	// Abandoned means that no user of this server is in the room, or was since the
	// moment.
	Abandoned Abandonment = "abandoned"
	// AbandonedExcluded means that the rule excludes the room.
	AbandonedExcluded Abandonment = "excluded"
	// AbandonedMembers means that a user of this server is joined, is invited or has
	// knocked.
	AbandonedMembers Abandonment = "members"
	// AbandonedRecent means that the last user left after the moment.
	AbandonedRecent Abandonment = "recent"
	// AbandonedUndated means that the time at which the last user left is unknown: no
	// user of this server was ever in the room, or the event is gone.
	AbandonedUndated Abandonment = "undated"
)

// abandonment is the SQL that applies a rule to the room r, a row of rooms. The
// rule's ServerName, Before and Exclude are $1, $2 and $3.
//
// Members are looked up in local_current_membership: when all local users have left
// a room, Synapse drops the room's current state but keeps these rows, each with the
// event that made the membership. A user left when that event arrived here, not when
// it claims to be sent: another server that bans a user may claim any time. The
// server of a room is the one in its id, or its creator's if the id has none.
const abandonment = `
	CASE WHEN r.room_id = ANY ($3)
	       OR coalesce(substr(r.room_id, nullif(strpos(r.room_id, ':'), 0) + 1),
	                   substr(r.creator, nullif(strpos(r.creator, ':'), 0) + 1)) = ANY ($3)
	       OR EXISTS (SELECT FROM room_aliases a WHERE a.room_id = r.room_id AND a.room_alias = ANY ($3))
	       OR EXISTS (SELECT FROM room_stats_state s WHERE s.room_id = r.room_id AND s.canonical_alias = ANY ($3))
	     THEN 'excluded'
	     WHEN EXISTS (
	            SELECT FROM local_current_membership m WHERE m.room_id = r.room_id AND m.membership NOT IN ('leave', 'ban'))
	       OR EXISTS (
	            SELECT FROM current_state_events c
	            WHERE c.room_id = r.room_id AND c.type = 'm.room.member' AND c.membership NOT IN ('leave', 'ban')
	              AND substr(c.state_key, nullif(strpos(c.state_key, ':'), 0) + 1) = $1)
	     THEN 'members'
	     ELSE (
	       SELECT CASE WHEN count(*) = 0 OR bool_or(gone.at IS NULL) THEN 'undated'
	                   WHEN max(gone.at) >= $2 THEN 'recent' ELSE 'abandoned' END
	       FROM local_current_membership m
	       LEFT JOIN events e ON e.event_id = m.event_id
	       CROSS JOIN LATERAL (SELECT coalesce(e.received_ts, e.origin_server_ts)) AS gone (at)
	       WHERE m.room_id = r.room_id)
	END`

// A RoomAbandonment is what a sweep for abandoned rooms must know of a room.
type RoomAbandonment struct {
	Room        string
	Abandonment Abandonment

	// Deleting says that the room has a delete that has not ended, and Held that the
	// room is held.
	Deleting, Held bool

	// SeenAt is the time since which sweeps have found the room abandoned. It is zero
	// if the last sweep has not.
	SeenAt time.Time
}

// AbandonmentRooms returns up to limit rooms, ordered by id, from the first after
// the given id; "" begins with the first room. If there are fewer than limit, these
// are the last rooms. A limit below 1 or above [MaxRooms] is an error.
func (q *Queries) AbandonmentRooms(ctx context.Context, after string, limit int, rule AbandonedRule) ([]RoomAbandonment, error) {
	const operation = "list rooms that may be abandoned"
	if limit < 1 || limit > MaxRooms {
		return nil, fmt.Errorf("%s: the limit is %d", operation, limit)
	}
	if !postgres.Storable(after) {
		return nil, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	rooms, err := postgres.ReadAll(ctx, q.db, func(row pgx.CollectableRow) (r RoomAbandonment, err error) {
		var seen *time.Time
		err = row.Scan(&r.Room, &r.Abandonment, &r.Deleting, &r.Held, &seen)
		if seen != nil {
			r.SeenAt = *seen
		}
		return r, err
	}, `
		SELECT r.room_id, `+abandonment+`,
		       EXISTS (
		         SELECT FROM lethe.jobs j
		         WHERE j.room_id = r.room_id AND j.kind = 'delete_room' AND j.state IN ('scheduled', 'queued', 'running', 'held', 'paused')),
		       EXISTS (SELECT FROM lethe.holds h WHERE h.room_id = r.room_id AND h.released_at IS NULL),
		       a.seen_at
		FROM (SELECT room_id, creator FROM rooms WHERE room_id > $4 ORDER BY room_id LIMIT $5) r
		LEFT JOIN lethe.abandoned_rooms a ON a.room_id = r.room_id
		ORDER BY r.room_id`, rule.ServerName, rule.Before, rule.Exclude, after, limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return rooms, nil
}

// GuardAbandoned fails with [ErrNotAbandoned] unless the room is abandoned by the
// rule. If the transaction has locked the room's row, the room stays abandoned until
// its end.
func GuardAbandoned(ctx context.Context, q postgres.Querier, room string, rule AbandonedRule) error {
	var result Abandonment
	err := q.QueryRow(ctx, `SELECT `+abandonment+` FROM rooms r WHERE r.room_id = $4`,
		rule.ServerName, rule.Before, rule.Exclude, room).Scan(&result)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: it is unknown", ErrNotAbandoned)
	case err != nil:
		return fmt.Errorf("check whether the room is abandoned: %w", err)
	case result != Abandoned:
		return fmt.Errorf("%w: %s", ErrNotAbandoned, result)
	}
	return nil
}

// A CheckedRange is the result of a sweep for a range of rooms.
type CheckedRange struct {
	// After is the id of the room before the range, and UpTo that of its last room.
	After, UpTo string

	// Abandoned are the rooms that the sweep has found abandoned, without those that it
	// makes a delete of: should that delete fail, two more sweeps must find the room
	// abandoned.
	Abandoned []string

	// At is the time of the check.
	At time.Time
}

// RecordAbandoned stores the result for a range of rooms, as part of the sweep's
// batch.
func RecordAbandoned(ctx context.Context, b *journal.Batch, checked CheckedRange) error {
	abandoned := append([]string{}, checked.Abandoned...) // not NULL, for which <> ALL is never true
	if _, err := b.Exec(ctx, `
		DELETE FROM lethe.abandoned_rooms WHERE room_id > $1 AND room_id <= $2 AND room_id <> ALL ($3)`,
		checked.After, checked.UpTo, abandoned); err != nil {
		return fmt.Errorf("forget abandoned rooms: %w", err)
	}
	if _, err := b.Exec(ctx, `
		INSERT INTO lethe.abandoned_rooms (room_id, seen_at) SELECT room_id, $2 FROM pg_catalog.unnest($1::text[]) AS room_id
		ON CONFLICT DO NOTHING`, abandoned, checked.At); err != nil {
		return fmt.Errorf("record abandoned rooms: %w", err)
	}
	return nil
}

// ForgetAbandoned deletes the results for all rooms after the given id. Call it when
// no rooms are left after it.
func (q *Queries) ForgetAbandoned(ctx context.Context, after string) error {
	if _, err := q.db.Exec(ctx, `DELETE FROM lethe.abandoned_rooms WHERE room_id > $1`, after); err != nil {
		return fmt.Errorf("forget abandoned rooms: %w", err)
	}
	return nil
}
