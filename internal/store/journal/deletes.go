package journal

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// A Deletes knows the deletes of a sweep and of a room. It is safe for concurrent use.
type Deletes struct{ db *postgres.DB }

// NewDeletes returns a Deletes. It reads nothing from the database.
func NewDeletes(db *postgres.DB) *Deletes { return &Deletes{db} }

// OpenOf reports whether a delete that the sweep has made is queued or running. It
// does not count deletes that are older than patience.
func (d *Deletes) OpenOf(ctx context.Context, sweep string, patience time.Duration) (open bool, err error) {
	if err := d.db.ReadRow(ctx, []any{&open}, `
		SELECT EXISTS (
			SELECT FROM lethe.jobs
			WHERE queue = 'low' AND state IN ('queued', 'running') AND parameters @> pg_catalog.jsonb_build_object('sweep', $1::text)
			  AND created_at > clock_timestamp() - $2::interval)`, sweep, patience); err != nil {
		return false, fmt.Errorf("look for open deletes of the sweep: %w", err)
	}
	return open, nil
}

// CompleteOf returns the deletes that the sweep has made and that are complete, the
// newest first, at most limit of them.
func (d *Deletes) CompleteOf(ctx context.Context, sweep string, limit int) ([]Job, error) {
	jobs, err := postgres.ReadAll(ctx, d.db, scanJob, `
		SELECT `+jobColumns+` FROM lethe.jobs
		WHERE kind = 'delete_room' AND queue = 'low' AND state = 'complete' AND parameters @> pg_catalog.jsonb_build_object('sweep', $1::text)
		ORDER BY created_at DESC, id DESC LIMIT $2`, sweep, limit)
	if err != nil {
		return nil, fmt.Errorf("read the complete deletes of the sweep: %w", err)
	}
	return jobs, nil
}

// maxDeletes bounds the deletes of a room whose samples are read.
const maxDeletes = 100

// Samples returns the samples of what the deletes of a room have deleted, as
// JSON, those of the newest 100 deletes first.
func (d *Deletes) Samples(ctx context.Context, room string) ([]json.RawMessage, error) {
	samples, err := postgres.ReadAll(ctx, d.db, pgx.RowTo[json.RawMessage], `
		SELECT checkpoint -> 'sample'::text FROM lethe.jobs
		WHERE room_id = $1 AND kind = 'delete_room' AND checkpoint ? 'sample'::text
		ORDER BY created_at DESC, id DESC LIMIT $2`, room, maxDeletes)
	if err != nil {
		return nil, fmt.Errorf("read what the deletes of the room have deleted: %w", err)
	}
	return samples, nil
}
