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

// ErrNotAbandoned is returned instead of deleting a room that is to be deleted only
// if it is abandoned, and is not. The error's text ends with the [Abandonment].
var ErrNotAbandoned = errors.New("the room is not abandoned")

// An AbandonedRule says which rooms are abandoned.
type AbandonedRule struct {
	// ServerName is this server's name.
	ServerName string

	// Before is a moment in Unix milliseconds: the last user of this server must
	// have gone before it.
	Before int64

	// Exclude are the rooms that never are: ids, aliases, and the names of servers,
	// whose rooms they are.
	Exclude []string
}

// An Abandonment is what a room is by an [AbandonedRule].
type Abandonment string

const (
	// Abandoned: no user of this server is in it, or was since the moment.
	Abandoned Abandonment = "abandoned"
	// AbandonedExcluded: the rule says that it never is.
	AbandonedExcluded Abandonment = "excluded"
	// AbandonedMembers: a user of this server is in it, is invited or asks to be let
	// in.
	AbandonedMembers Abandonment = "members"
	// AbandonedRecent: the last one has gone since the moment.
	AbandonedRecent Abandonment = "recent"
	// AbandonedUndated: nobody can say when the last one has gone, since none ever
	// was in it, or the event is not there.
	AbandonedUndated Abandonment = "undated"
)

// abandonment is what the room r, a row of rooms, is by the rule whose ServerName,
// Before and Exclude are $1, $2 and $3.
//
// Who is in it is asked of local_current_membership: of a room that all users here
// have left Synapse drops the current state, but these rows stay, each with the
// event that says so. When somebody has gone is when that event arrived here, not
// when it says it was sent: another server that bans a user may say anything. The
// server of a room is the one in its id, or its creator's where the id has none.
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

// A SeenRoom is what a sweep for abandoned rooms must know of a room.
type SeenRoom struct {
	Room        string
	Abandonment Abandonment

	// Deleting says that the room has a delete that has not ended, and Held that
	// nothing of it may be deleted.
	Deleting, Held bool

	// SeenAt is since when sweeps have found it abandoned, zero if the last has not.
	SeenAt time.Time
}

// SeenRooms lists rooms by their ids, of which the first is the next above after; ""
// begins with the first of all. Fewer than limit are the last ones. A limit below 1
// or above [MaxRooms] is an error.
func (q *Queries) SeenRooms(ctx context.Context, after string, limit int, rule AbandonedRule) ([]SeenRoom, error) {
	const operation = "list rooms that may be abandoned"
	if limit < 1 || limit > MaxRooms {
		return nil, fmt.Errorf("%s: the limit is %d", operation, limit)
	}
	if !postgres.Storable(after) {
		return nil, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	rooms, err := postgres.ReadAll(ctx, q.db, func(row pgx.CollectableRow) (r SeenRoom, err error) {
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
		         WHERE j.room_id = r.room_id AND j.kind = 'delete_room' AND j.state IN ('queued', 'running', 'held')),
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
// rule. It stays so until the end of a transaction that has locked the room's row.
func GuardAbandoned(ctx context.Context, q postgres.Querier, room string, rule AbandonedRule) error {
	var is Abandonment
	err := q.QueryRow(ctx, `SELECT `+abandonment+` FROM rooms r WHERE r.room_id = $4`,
		rule.ServerName, rule.Before, rule.Exclude, room).Scan(&is)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: it is not known", ErrNotAbandoned)
	case err != nil:
		return fmt.Errorf("look whether the room is abandoned: %w", err)
	case is != Abandoned:
		return fmt.Errorf("%w: %s", ErrNotAbandoned, is)
	}
	return nil
}

// A Look is what a sweep has seen of a range of rooms.
type Look struct {
	// After is the id of the room before the range, and UpTo its last.
	After, UpTo string

	// Abandoned are those that it has found abandoned, but for those that it makes
	// a delete of: should that fail, they are to be found so by two looks again.
	Abandoned []string

	// At is when.
	At time.Time
}

// RecordLook remembers, as part of the batch of a sweep for abandoned rooms, what it
// has seen.
func RecordLook(ctx context.Context, b *journal.Batch, look Look) error {
	seen := append([]string{}, look.Abandoned...) // not NULL, which no room is unlike
	if _, err := b.Exec(ctx, `
		DELETE FROM lethe.abandoned_rooms WHERE room_id > $1 AND room_id <= $2 AND room_id <> ALL ($3)`,
		look.After, look.UpTo, seen); err != nil {
		return fmt.Errorf("forget abandoned rooms: %w", err)
	}
	if _, err := b.Exec(ctx, `
		INSERT INTO lethe.abandoned_rooms (room_id, seen_at) SELECT room_id, $2 FROM unnest($1::text[]) AS room_id
		ON CONFLICT DO NOTHING`, seen, look.At); err != nil {
		return fmt.Errorf("remember the abandoned rooms: %w", err)
	}
	return nil
}

// ForgetAbandoned forgets what was seen of the rooms above after: there are none.
func (q *Queries) ForgetAbandoned(ctx context.Context, after string) error {
	if _, err := q.db.Exec(ctx, `DELETE FROM lethe.abandoned_rooms WHERE room_id > $1`, after); err != nil {
		return fmt.Errorf("forget abandoned rooms: %w", err)
	}
	return nil
}
