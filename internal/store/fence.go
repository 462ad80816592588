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
	err := s.inOneTrip(ctx, func(pipeline *pgx.Batch) {
		pipeline.Queue(`SELECT set_config('lock_timeout', $1, true)`, milliseconds(fenceWait))
		pipeline.Queue(`
			INSERT INTO lethe.room_fences AS f (room_id, fence) VALUES ($1, 1)
			ON CONFLICT (room_id) DO UPDATE SET fence = f.fence + 1
			RETURNING fence`, room).QueryRow(func(row pgx.Row) error { return row.Scan(&fence) })
	})
	if err != nil {
		return 0, fmt.Errorf("take the room's next fence token: %w", err)
	}
	return fence, nil
}

// checkFence has the pipeline fail with [ErrFenced] unless the token is the room's
// newest, and keeps it so until the transaction ends: a new owner's NextFence waits
// for the share lock.
func checkFence(pipeline *pgx.Batch, room string, fence int64) {
	pipeline.Queue(`SELECT fence FROM lethe.room_fences WHERE room_id = $1 FOR SHARE`, room).QueryRow(func(row pgx.Row) error {
		var newest int64
		err := row.Scan(&newest)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return ErrFenced
		case err != nil:
			return fmt.Errorf("check the fence token: %w", err)
		case newest != fence:
			return ErrFenced
		}
		return nil
	})
}
