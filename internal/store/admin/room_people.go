package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// roomTime bounds each statement about a room that may be huge. An operator waits for the
// answer.
const roomTime = 2 * time.Second

// inRoomTime reads in a transaction whose statements may take [roomTime] each. It reports
// false if one took longer.
func (q *Queries) inRoomTime(ctx context.Context, read func(pgx.Tx) error) (known bool, err error) {
	err = q.db.InTransaction(ctx, func(tx pgx.Tx) error {
		// Compiling these statements takes longer than they do.
		if _, err := tx.Exec(ctx, `
			SELECT set_config('transaction_read_only', 'on', true), set_config('jit', 'off', true), set_config('statement_timeout', $1, true)`,
			postgres.Milliseconds(roomTime)); err != nil {
			return err
		}
		return read(tx)
	})
	if postgres.HasCode(err, "57014") && ctx.Err() == nil { // cancelled by the timeout
		return false, nil
	}
	return err == nil, err
}

// A Membership is how many users have a membership in a room.
type Membership struct {
	Membership string

	// Local are users of this server, and Remote those of others.
	Local, Remote int64
}

// RoomPeople are the members of a room.
type RoomPeople struct {
	// Memberships are those that any user has, sorted by name.
	Memberships []Membership

	// Joined are the ids of the first joined local users, sorted.
	Joined []string
}

// RoomPeople counts the members of a room, and lists up to limit joined users of this
// server. It returns nil if the room has so many members that it would take longer than
// 2 s. An unknown room has no members.
func (q *Queries) RoomPeople(ctx context.Context, room, serverName string, limit int) (*RoomPeople, error) {
	people := &RoomPeople{Memberships: []Membership{}, Joined: []string{}}
	if !postgres.Storable(room) {
		return people, nil
	}
	known, err := q.inRoomTime(ctx, func(tx pgx.Tx) (err error) {
		// By an index of the members of rooms.
		people.Memberships, err = postgres.Collect(ctx, tx, pgx.RowToStructByPos[Membership], `
			SELECT m.membership, count(*) FILTER (WHERE m.local), count(*) FILTER (WHERE NOT m.local)
			FROM (
				SELECT membership, substr(state_key, strpos(state_key, ':') + 1) = $2 AS local
				FROM current_state_events WHERE room_id = $1 AND type = 'm.room.member' AND membership IS NOT NULL) AS m
			GROUP BY m.membership ORDER BY m.membership LIMIT 100`, room, serverName)
		if err != nil {
			return err
		}
		joined, err := postgres.Collect(ctx, tx, pgx.RowTo[string], `
			SELECT user_id FROM local_current_membership WHERE room_id = $1 AND membership = 'join' ORDER BY user_id LIMIT $2`, room, limit)
		people.Joined = append(people.Joined, joined...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count the room's members: %w", err)
	}
	if !known {
		return nil, nil
	}
	return people, nil
}
