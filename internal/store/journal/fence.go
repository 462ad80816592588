package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// ErrFenced is returned by a batch whose fence token is no longer the room's newest:
// another owner has locked the room since.
var ErrFenced = errors.New("another owner has locked the room since")

// fenceWait bounds how long a new owner waits for the old owner's last batch. The
// server ends an idle batch after the lock's lease, so a longer wait means that the
// batch is still working.
const fenceWait = 15 * time.Second

// NextFence returns the room's next fence token. It waits at most 15 s for a batch
// that runs under the previous token. After that no batch with an older token can
// commit.
func (j *Journal) NextFence(ctx context.Context, room string) (int64, error) {
	var fence int64
	err := j.db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
		// Waiting for the disk would mean waiting for everything that the previous
		// batch has written. A crash of the server may lose the token, and with it
		// every batch that used it. But the same token must not be given out again, for
		// its owner may still run. So tokens are microseconds of the clock, and always
		// above the previous token.
		pipeline.Queue(`SELECT set_config('lock_timeout', $1, true), set_config('synchronous_commit', 'off', true)`,
			postgres.Milliseconds(fenceWait))
		pipeline.Queue(`
			WITH clock AS (SELECT (extract(epoch FROM clock_timestamp())::numeric * 1000000.0)::bigint AS now)
			INSERT INTO lethe.room_fences AS f (room_id, fence) SELECT $1, now FROM clock
			ON CONFLICT (room_id) DO UPDATE SET fence = greatest(f.fence + 1, excluded.fence)
			RETURNING fence`, room).QueryRow(func(row pgx.Row) error { return row.Scan(&fence) })
	})
	if err != nil {
		return 0, fmt.Errorf("take the room's next fence token: %w", err)
	}
	return fence, nil
}

// checkRoom makes the pipeline fail with [ErrFenced] unless the token is the room's
// newest, and with [ErrHeld] if the room is held. Neither can change until the
// transaction ends: NextFence and Holds.Place wait for the share lock.
func checkRoom(pipeline *pgx.Batch, room string, fence int64) {
	// Two statements, because each has a snapshot of its own: in a single one, the
	// second half would not see a hold that was placed while the first half waited.
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
	pipeline.Queue(holdReason, room).QueryRow(checkHold)
}
