package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrFenced is returned by a batch whose fence token is no longer the room's
// newest: another owner has locked the room since.
var ErrFenced = errors.New("another owner has locked the room since")

// fenceWait bounds how long a new owner waits for the old owner's last batch.
// A batch that went to sleep is ended by the server after the lock's lease, so
// a wait this long means a batch that is still at work.
const fenceWait = 15 * time.Second

// NextFence gives out the room's next fence token. It waits for a batch in
// progress under the token before, at most 15 s; after that no such batch can
// commit any more.
func (s *Store) NextFence(ctx context.Context, room string) (int64, error) {
	var fence int64
	err := s.inTransaction(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, milliseconds(fenceWait)); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			INSERT INTO lethe.room_fences AS f (room_id, fence) VALUES ($1, 1)
			ON CONFLICT (room_id) DO UPDATE SET fence = f.fence + 1
			RETURNING fence`, room).Scan(&fence)
	})
	if err != nil {
		return 0, fmt.Errorf("take the room's next fence token: %w", err)
	}
	return fence, nil
}

// checkRoom fails with [ErrFenced] unless the token is the room's newest, and with
// [ErrHeld] if the room is held. Neither can change until the transaction ends: a
// new owner's NextFence waits for the share lock, and so does a PlaceHold.
func checkRoom(ctx context.Context, tx pgx.Tx, room string, fence int64) error {
	// Both in one round trip, but each with a snapshot of its own: in one statement
	// the second would not see a hold that was placed while the first waited.
	pipeline := &pgx.Batch{}
	pipeline.Queue(`SELECT fence FROM lethe.room_fences WHERE room_id = $1 FOR SHARE`, room).QueryRow(func(row pgx.Row) error {
		var newest int64
		err := row.Scan(&newest)
		if errors.Is(err, pgx.ErrNoRows) || err == nil && newest != fence {
			return ErrFenced
		}
		return err
	})
	pipeline.Queue(holdReason, room).QueryRow(func(row pgx.Row) error {
		var reason string
		if err := row.Scan(&reason); err != nil {
			return err
		}
		return heldFor(reason)
	})
	if err := tx.SendBatch(ctx, pipeline).Close(); err != nil {
		return fmt.Errorf("check the room's fence and holds: %w", err)
	}
	return nil
}
