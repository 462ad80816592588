package admin

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/audit"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// The index is unique, so if two users block a room at the same time, one comes
// first.
const blockRoom = `INSERT INTO blocked_rooms (room_id, user_id) VALUES ($1, $2) ON CONFLICT (room_id) DO NOTHING`

// BlockRoom keeps users of this server from joining a room, known or not, in the
// requester's name. A room that is blocked already keeps its first blocker. The
// statements of last end the transaction.
func (q *Queries) BlockRoom(ctx context.Context, room, requester string, last ...postgres.Statement) error {
	return q.change(ctx, audit.Entry{Who: requester, Action: audit.Block, Room: room},
		postgres.Statement{What: "block the room", SQL: blockRoom, Args: []any{room, requester}}, last)
}

// change runs a statement, and then the others, in one transaction. The entry is kept if
// the statement has changed something.
func (q *Queries) change(ctx context.Context, entry audit.Entry, statement postgres.Statement, last []postgres.Statement) error {
	err := q.db.InTransaction(ctx, func(tx pgx.Tx) error {
		changed, err := tx.Exec(ctx, statement.SQL, statement.Args...)
		if err == nil && changed.RowsAffected() > 0 {
			err = audit.Note(ctx, tx, entry)
		}
		if err != nil {
			return err
		}
		return postgres.RunIn(ctx, tx, last...)
	})
	if err != nil {
		return fmt.Errorf("%s: %w", statement.What, err)
	}
	return nil
}

// BlockRoomOf is [Queries.BlockRoom] for the batch's room, as part of the batch.
func BlockRoomOf(ctx context.Context, b *journal.Batch, requester string) error {
	if _, err := b.Exec(ctx, blockRoom, b.Room(), requester); err != nil {
		return fmt.Errorf("block the room: %w", err)
	}
	return nil
}

// UnblockRoom lets users of this server join a room again, in the requester's name. It does
// nothing if the room is not blocked. The statements of last end the transaction.
func (q *Queries) UnblockRoom(ctx context.Context, room, requester string, last ...postgres.Statement) error {
	return q.change(ctx, audit.Entry{Who: requester, Action: audit.Unblock, Room: room},
		postgres.Statement{What: "unblock the room", SQL: `DELETE FROM blocked_rooms WHERE room_id = $1`, Args: []any{room}}, last)
}

// RoomBlock returns the id of the user who blocked a room. A room that is not
// blocked is [postgres.ErrNotFound].
func (q *Queries) RoomBlock(ctx context.Context, room string) (blocker string, err error) {
	err = q.db.ReadRow(ctx, []any{&blocker}, `SELECT user_id FROM blocked_rooms WHERE room_id = $1`, room)
	if err != nil {
		return "", fmt.Errorf("read the room's block: %w", err)
	}
	return blocker, nil
}
