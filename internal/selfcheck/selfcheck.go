package selfcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/schema"
	"lethe/internal/store/journal"
	"lethe/internal/store/leftover"
	"lethe/internal/store/postgres"
)

// ErrDeletesOpen is returned for a sweep whose deletes have not ended yet.
var ErrDeletesOpen = errors.New("deletes of the sweep have not ended")

// patience is how long a sweep waits for a delete that it has made, before it checks
// what the others have left. Ticks of its schedule are skipped meanwhile.
const patience = time.Hour

// A Checker checks what deletes have left. It is safe for concurrent use.
type Checker struct {
	deletes  *journal.Deletes
	leftover *leftover.Checker
	log      *slog.Logger
	metrics  *observe.Metrics
}

// New returns a Checker. The rules are the operator's, as in [leftover.Options].
func New(db *postgres.DB, rules schema.Rules, log *slog.Logger, metrics *observe.Metrics) *Checker {
	for _, kind := range []journal.Kind{jobs.DeleteRoom, jobs.AbandonedSweep} { // each series starts at 0
		metrics.RowsLeft.WithLabelValues(string(kind))
	}
	return &Checker{
		deletes: journal.NewDeletes(db), leftover: leftover.New(db, leftover.Options{Tables: rules}), log: log, metrics: metrics,
	}
}

// Delete checks what the delete of a room has left, of which it has deleted the sample.
// Asked is as in [leftover.Keys]. A second call checks again.
func (c *Checker) Delete(ctx context.Context, room string, sample leftover.Sample, asked []string) *leftover.Report {
	return c.check(ctx, jobs.DeleteRoom, leftover.Keys{Rooms: []string{room}, Sample: sample, Asked: asked})
}

// Sweep checks once what the deletes have left that the sweep has made and that are
// complete: the newest [leftover.MaxRooms] of them. It returns the number of their
// rooms; without rooms the report is nil. It fails with [ErrDeletesOpen] while a delete
// of the last hour has not ended. Held deletes do not count: they may wait for years.
func (c *Checker) Sweep(ctx context.Context, id string) (report *leftover.Report, rooms int, err error) {
	open, err := c.deletes.OpenOf(ctx, id, patience)
	switch {
	case err != nil:
		return nil, 0, err
	case open:
		return nil, 0, ErrDeletesOpen
	}
	deletes, err := c.deletes.CompleteOf(ctx, id, leftover.MaxRooms)
	if err != nil || len(deletes) == 0 {
		return nil, 0, err
	}
	var keys leftover.Keys
	for _, job := range deletes {
		var at struct {
			Sample leftover.Sample `json:"sample"`
		}
		if len(job.Checkpoint) > 0 {
			if err := json.Unmarshal(job.Checkpoint, &at); err != nil {
				return nil, 0, fmt.Errorf("decode the checkpoint of job %s: %w", job.ID, err)
			}
		}
		keys.Rooms, keys.Sample = append(keys.Rooms, job.Room), keys.Sample.With(at.Sample)
	}
	return c.check(ctx, jobs.AbandonedSweep, keys), len(keys.Rooms), nil
}

func (c *Checker) check(ctx context.Context, kind journal.Kind, keys leftover.Keys) *leftover.Report {
	report := c.leftover.Check(ctx, keys)
	for _, t := range report.Left {
		c.metrics.RowsLeft.WithLabelValues(string(kind)).Add(float64(t.Rows))
		c.log.WarnContext(ctx, "rows left after a delete", "table", t.Table, "rows", t.Rows, "more", t.More,
			"column", t.Column, "keys", t.Keys, "why", t.Why)
	}
	if report.Skipped != "" {
		c.log.WarnContext(ctx, "what a delete has left was not checked", "reason", report.Skipped)
	}
	return &report
}
