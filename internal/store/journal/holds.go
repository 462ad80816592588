package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lethe/internal/store/audit"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

var (
	// ErrHeld is returned instead of deleting anything of a held room. The error's text
	// ends with the hold's reason.
	ErrHeld = errors.New("the room is held, and nothing of it may be deleted")

	// ErrBatchRuns is returned when a batch of the room was still running after the
	// wait. Nothing was changed, and the caller may try again.
	ErrBatchRuns = errors.New("a batch of the room is at work")
)

// A Hold says that nothing of a room may be deleted, from when it is placed until it
// is released.
type Hold struct {
	Room string

	// Reason says why, in the words of the user who placed it.
	Reason string

	// PlacedBy and ReleasedBy are the users who did so: the user id of an admin, or the
	// name that an operator gave.
	PlacedBy, ReleasedBy string

	PlacedAt time.Time

	// ReleasedAt is zero until the hold is released.
	ReleasedAt time.Time
}

const holdColumns = `room_id, reason, placed_by, placed_at, coalesce(released_by, ''), released_at`

func scanHold(row pgx.CollectableRow) (hold Hold, err error) {
	var released *time.Time
	err = row.Scan(&hold.Room, &hold.Reason, &hold.PlacedBy, &hold.PlacedAt, &hold.ReleasedBy, &released)
	if released != nil {
		hold.ReleasedAt = *released
	}
	return hold, err
}

func oneHold(ctx context.Context, db postgres.Querier, sql string, args ...any) (Hold, error) {
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return Hold{}, err
	}
	hold, err := pgx.CollectExactlyOneRow(rows, scanHold)
	if errors.Is(err, pgx.ErrNoRows) {
		return Hold{}, postgres.ErrNotFound
	}
	return hold, err
}

const openHold = `SELECT ` + holdColumns + ` FROM lethe.holds WHERE room_id = $1 AND released_at IS NULL`

// holdReason selects the reason why the room $1 is held, "" if it is not.
const holdReason = `
	SELECT coalesce((SELECT reason FROM lethe.holds WHERE room_id = $1 AND released_at IS NULL), '')`

// holdWait bounds how long a hold waits for the batch in progress. Most batches take
// a quarter of a second.
const holdWait = 20 * time.Second

// Holds reads and writes the holds of rooms. It is safe for concurrent use.
type Holds struct{ db *postgres.DB }

// NewHolds returns the Holds in the database.
func NewHolds(db *postgres.DB) *Holds { return &Holds{db: db} }

// Place holds a room, known or not, and returns the hold. It waits at most 20 s for
// a batch of the room in progress, and then fails with [ErrBatchRuns]. It does so at
// once while the homeserver runs a task for a job of the room. Once Place
// has returned, nothing more of the room is deleted.
//
// A room has one hold at a time. A second call for the same reason returns the
// existing hold. A call for another reason returns it with [ErrExists].
func (h *Holds) Place(ctx context.Context, room, reason, by string) (Hold, error) {
	hold, err := h.change(ctx, room, func(tx pgx.Tx) (Hold, error) {
		existing, err := oneHold(ctx, tx, openHold, room)
		switch {
		case err == nil && existing.Reason != postgres.Sanitize(reason):
			return existing, ErrExists
		case !errors.Is(err, postgres.ErrNotFound):
			return existing, err
		}
		if err := cancelTasks(ctx, tx, room); err != nil {
			return Hold{}, err
		}
		hold, err := oneHold(ctx, tx, `
			INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ($1, $2, $3) RETURNING `+holdColumns,
			room, postgres.Sanitize(reason), postgres.Sanitize(by))
		if err != nil {
			return Hold{}, err
		}
		return hold, audit.Note(ctx, tx, audit.Entry{Who: by, Action: audit.Hold, Room: room, Reason: reason})
	})
	if err != nil {
		return hold, fmt.Errorf("hold the room: %w", err)
	}
	return hold, nil
}

// cancelTasks deletes the tasks by which the homeserver would go on with jobs of the room,
// unless it has begun one: then it fails with [ErrBatchRuns]. The jobs request others when
// the hold ends.
func cancelTasks(ctx context.Context, tx pgx.Tx, room string) error {
	var readable, deletable bool
	if err := tx.QueryRow(ctx, `
		SELECT coalesce(has_table_privilege(name::oid, 'SELECT'), false), coalesce(has_table_privilege(name::oid, 'DELETE'), false)
		FROM to_regclass('scheduled_tasks') AS name`).Scan(&readable, &deletable); err != nil || !readable {
		return err
	}
	const ours = ` FROM scheduled_tasks t WHERE t.resource_id = $1 AND t.id IN (
		SELECT j.checkpoint ->> 'task'::text FROM lethe.jobs j WHERE j.room_id = $1 AND j.ended_at IS NULL)`
	if deletable {
		// The fence is locked, so no batch moves a checkpoint meanwhile.
		if _, err := tx.Exec(ctx, `
			WITH cancelled AS (DELETE`+ours+` AND t.status = 'scheduled' RETURNING t.id)
			UPDATE lethe.jobs j SET checkpoint = j.checkpoint - 'task'::text FROM cancelled c
			WHERE j.room_id = $1 AND j.checkpoint ->> 'task'::text = c.id`, room); err != nil {
			return fmt.Errorf("cancel the homeserver's tasks: %w", err)
		}
	}
	var open bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT`+ours+` AND t.status IN ('scheduled', 'active'))`, room).Scan(&open)
	switch {
	case err != nil:
		return fmt.Errorf("look for the homeserver's tasks: %w", err)
	case open:
		return ErrBatchRuns
	}
	return nil
}

// Release ends the room's hold and returns it. The next run of the reconciler
// resumes the held jobs. For a room that is not held, so also in a second call, it
// returns [postgres.ErrNotFound].
func (h *Holds) Release(ctx context.Context, room, by string) (Hold, error) {
	hold, err := h.change(ctx, room, func(tx pgx.Tx) (Hold, error) {
		hold, err := oneHold(ctx, tx, `
			UPDATE lethe.holds SET released_by = $2, released_at = clock_timestamp()
			WHERE room_id = $1 AND released_at IS NULL RETURNING `+holdColumns, room, postgres.Sanitize(by))
		if err != nil {
			return Hold{}, err
		}
		return hold, audit.Note(ctx, tx, audit.Entry{Who: by, Action: audit.LiftHold, Room: room})
	})
	if err != nil {
		return hold, fmt.Errorf("release the room: %w", err)
	}
	return hold, nil
}

// change runs do while no batch of the room is in progress and no other transaction
// changes the room's hold.
//
// No batch can miss a hold. Every batch takes a share lock on the room's fence
// before it checks for holds, and keeps the lock to its end. change locks the same
// row exclusively. If the batch came first, change waits until the batch has ended.
// If change came first, the batch waits, and then checks with a snapshot taken after
// the hold was committed.
func (h *Holds) change(ctx context.Context, room string, do func(pgx.Tx) (Hold, error)) (hold Hold, err error) {
	if room == "" || !postgres.Storable(room) {
		return Hold{}, postgres.ErrNotFound
	}
	err = h.db.InTransaction(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, postgres.Milliseconds(holdWait)); err != nil {
			return err
		}
		// A room that was never locked has no fence yet. If its first token is taken at
		// the same time, one of the two transactions waits here for the other.
		_, err := tx.Exec(ctx, `
			INSERT INTO lethe.room_fences AS f (room_id, fence) VALUES ($1, 0)
			ON CONFLICT (room_id) DO UPDATE SET fence = f.fence`, room)
		if postgres.IsLocked(err) {
			return ErrBatchRuns
		}
		if err != nil {
			return err
		}
		hold, err = do(tx)
		return err
	})
	return hold, err
}

// Of returns the hold of a room. It is [postgres.ErrNotFound] if the room is not
// held.
func (h *Holds) Of(ctx context.Context, room string) (Hold, error) {
	const operation = "look for a hold of the room"
	if !postgres.Storable(room) {
		return Hold{}, fmt.Errorf("%s: %w", operation, postgres.ErrNotFound)
	}
	var hold Hold
	err := postgres.RetryRead(ctx, func() (err error) {
		hold, err = oneHold(ctx, h.db, openHold, room)
		return err
	})
	if err != nil {
		return Hold{}, fmt.Errorf("%s: %w", operation, err)
	}
	return hold, nil
}

// Check fails with [ErrHeld] if the room is held at this moment. Call it before
// requesting work that is done elsewhere; each batch checks by itself.
func (h *Holds) Check(ctx context.Context, room string) error {
	return postgres.RetryRead(ctx, func() error { return CheckHold(ctx, h.db, room) })
}

// CheckHold is [Holds.Check] in a transaction. If the transaction has locked the
// room's fence before, the result stays true until its end.
func CheckHold(ctx context.Context, q postgres.Querier, room string) error {
	return checkHold(q.QueryRow(ctx, holdReason, room))
}

// checkHold reads the row of [holdReason].
func checkHold(row pgx.Row) error {
	var reason string
	if err := row.Scan(&reason); err != nil {
		return fmt.Errorf("look for a hold of the room: %w", err)
	}
	if reason != "" {
		return fmt.Errorf("%w: %s", ErrHeld, reason)
	}
	return nil
}

// List returns up to limit holds, the last placed first. With released set, it
// includes released holds.
func (h *Holds) List(ctx context.Context, released bool, limit int) ([]Hold, error) {
	holds, err := postgres.ReadAll(ctx, h.db, scanHold, `
		SELECT `+holdColumns+` FROM lethe.holds
		WHERE $1 OR released_at IS NULL ORDER BY placed_at DESC, id DESC LIMIT $2`, released, limit)
	if err != nil {
		return nil, fmt.Errorf("list the holds: %w", err)
	}
	return holds, nil
}

// HoldJob makes the run's job wait until its room is no longer held. A run that no
// longer owns its job gets [ErrSuperseded].
func (j *Journal) HoldJob(ctx context.Context, run Run) error {
	return j.moveJob(ctx, "hold the job", run, `
		state = 'held', heartbeat_at = NULL, waits_since = clock_timestamp(), waits_for = 'hold: ' || coalesce((
			SELECT h.reason FROM lethe.holds h WHERE h.room_id = jobs.room_id AND h.released_at IS NULL), 'it has just ended')`)
}

// ResumeHeld puts up to limit held jobs whose rooms are no longer held back in the
// queue under a new generation, and returns them. The caller must enqueue a task for
// each. Any number of callers may do this at once.
//
// It checks the holds that exist and not their releases: if a hold is released while
// a job is about to wait for it, the job is found all the same.
func (j *Journal) ResumeHeld(ctx context.Context, limit int) ([]Job, error) {
	jobs, err := postgres.Collect(ctx, j.db, scanJob, `
		UPDATE lethe.jobs
		SET state = 'queued', generation = generation + 1, task_missing_since = `+neverEnqueued+`, updated_at = clock_timestamp(),
		    waits_for = NULL, waits_since = NULL
		WHERE id IN (
			SELECT id FROM lethe.jobs j
			WHERE state = 'held'
			  AND NOT EXISTS (SELECT FROM lethe.holds h WHERE h.room_id = j.room_id AND h.released_at IS NULL)
			LIMIT $1 FOR UPDATE SKIP LOCKED)
		RETURNING `+jobColumns, limit)
	if err != nil {
		return nil, fmt.Errorf("resume held jobs: %w", err)
	}
	return jobs, nil
}

// HeldOf returns the rooms among the given ones that are held. Until the end of the
// transaction none of the others can be.
func HeldOf(ctx context.Context, tx pgx.Tx, rooms []string) ([]string, error) {
	// In an order, so that two transactions do not wait for each other. A room with a
	// delayed mapping was locked for its batch, so it has a fence.
	if _, err := tx.Exec(ctx, `
		SELECT FROM lethe.room_fences WHERE room_id = ANY ($1) ORDER BY room_id FOR SHARE`, rooms); err != nil {
		return nil, fmt.Errorf("lock the rooms' fences: %w", err)
	}
	held, err := postgres.Collect(ctx, tx, pgx.RowTo[string], `
		SELECT DISTINCT room_id FROM lethe.holds WHERE room_id = ANY ($1) AND released_at IS NULL`, rooms)
	if err != nil {
		return nil, fmt.Errorf("look for holds of the rooms: %w", err)
	}
	return held, nil
}
