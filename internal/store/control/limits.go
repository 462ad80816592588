package control

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/audit"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// ErrLimit is returned for a limit that is out of range.
var ErrLimit = errors.New("rows_per_second is 0 or more, and jobs 1 or more")

// A Limit bounds what the fleet does for a kind of job. Every worker learns of a change
// within 5 s.
type Limit struct {
	Kind journal.Kind

	// RowsPerSecond is how many rows the jobs of the kind delete per second together, and 0
	// any number. Nil is what the settings say.
	RowsPerSecond *int

	// Jobs is how many jobs of the kind run at a time, at least 1. Nil is what the settings
	// say. Jobs that run when it is lowered go on.
	Jobs *int

	// Who has set it, and when.
	Who string
	Set time.Time
}

const limitColumns = `kind, rows_per_second, jobs, who, set_at`

// SetLimit sets the limits of a kind, and returns them. Without any it removes them. It
// fails with [ErrLimit] if one is out of range.
func (c *Control) SetLimit(ctx context.Context, limit Limit) (Limit, error) {
	const operation = "set the limit"
	if rows, jobs := limit.RowsPerSecond, limit.Jobs; !postgres.Storable(string(limit.Kind)) || limit.Kind == "" ||
		rows != nil && (*rows < 0 || *rows > math.MaxInt32) || jobs != nil && (*jobs < 1 || *jobs > math.MaxInt32) {
		return Limit{}, fmt.Errorf("%s: %w", operation, ErrLimit)
	}
	sql := `
		INSERT INTO lethe.fleet (kind, rows_per_second, jobs, who) VALUES ($1, $2, $3, $4)
		ON CONFLICT (kind) DO UPDATE
		SET rows_per_second = excluded.rows_per_second, jobs = excluded.jobs, who = excluded.who, set_at = excluded.set_at
		RETURNING set_at`
	args := []any{limit.Kind, limit.RowsPerSecond, limit.Jobs, postgres.Sanitize(limit.Who)}
	if limit.RowsPerSecond == nil && limit.Jobs == nil {
		sql, args = `
			WITH gone AS (DELETE FROM lethe.fleet WHERE kind = $1) SELECT clock_timestamp()`, args[:1]
	}
	if err := c.db.InTransaction(ctx, func(tx pgx.Tx) error {
		var rows, jobs *int
		err := tx.QueryRow(ctx, `SELECT rows_per_second, jobs FROM lethe.fleet WHERE kind = $1 FOR UPDATE`, limit.Kind).Scan(&rows, &jobs)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err := tx.QueryRow(ctx, sql, args...).Scan(&limit.Set); err != nil {
			return err
		}
		return audit.Note(ctx, tx, audit.Entry{Who: limit.Who, Action: audit.SetLimits, Subject: string(limit.Kind), Detail: audit.Detail(map[string]any{
			"rows_per_second": limit.RowsPerSecond, "jobs": limit.Jobs, "before": map[string]any{"rows_per_second": rows, "jobs": jobs},
		})})
	}); err != nil {
		return Limit{}, fmt.Errorf("%s: %w", operation, err)
	}
	return limit, nil
}

// Limits returns the limits of all kinds that have any, sorted by kind.
func (c *Control) Limits(ctx context.Context) ([]Limit, error) {
	limits, err := postgres.ReadAll(ctx, c.db, pgx.RowToStructByPos[Limit], `SELECT `+limitColumns+` FROM lethe.fleet ORDER BY kind`)
	if err != nil {
		return nil, fmt.Errorf("list the limits: %w", err)
	}
	return limits, nil
}
