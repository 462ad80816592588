package tasks

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store/control"
	"lethe/internal/store/extent"
	"lethe/internal/store/journal"
	"lethe/internal/wait"
)

const (
	// limitsInterval is the interval at which a worker reads the fleet's limits, and
	// limitsTime bounds one look. Together they are less than 5 s.
	limitsInterval = 2 * time.Second
	limitsTime     = 2 * time.Second
)

// fleetLimits are the limits of the fleet as the worker last read them. It is safe for
// concurrent use.
type fleetLimits struct {
	control *control.Control

	mu   sync.Mutex
	rows map[journal.Kind]int // by kind, without kinds that have no limit of their own
}

// read reads the limits. If that fails, the last ones stay.
func (f *fleetLimits) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limitsTime)
	defer cancel()
	limits, err := f.control.Limits(ctx)
	if err != nil {
		return err
	}
	rows := map[journal.Kind]int{}
	for _, limit := range limits {
		if limit.RowsPerSecond != nil {
			rows[limit.Kind] = *limit.RowsPerSecond
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows = rows
	return nil
}

// watchLimits reads the fleet's limits until the context ends.
func (w *Worker) watchLimits(ctx context.Context) {
	failing := false
	look := func(ctx context.Context) {
		err := w.limits.read(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			w.log.WarnContext(ctx, "limits of the fleet not read: the last ones stay", "error", err)
		}
		failing = err != nil
	}
	look(ctx)
	wait.Every(ctx, limitsInterval, look)
}

// rate returns how many rows per second the jobs of a kind may delete, 0 for any number,
// and the bucket of rows that they share. Without a limit of the kind, the settings limit
// what sweeps have made.
func (w *Worker) rate(kind journal.Kind, swept bool) (rows int, bucket string) {
	w.limits.mu.Lock()
	defer w.limits.mu.Unlock()
	if rows, ok := w.limits.rows[kind]; ok {
		return rows, redisdb.KindRows(string(kind))
	}
	if swept {
		return w.options.RowsPerSecond, redisdb.RetentionRows()
	}
	return 0, ""
}

// workerName returns the name of this process in the rows of the jobs that it runs.
func workerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}

// recordTotal records how much a job will go through, unless that is known. The
// many small jobs of sweeps go without. Nothing depends on it, so a failure is only logged.
func (w *Worker) recordTotal(ctx context.Context, job journal.Job, run journal.Run, count func() (total int64, known bool, err error)) {
	if job.Total != nil || job.Queue == jobs.Low || len(job.Checkpoint) > 0 {
		return
	}
	total, known, err := count()
	if err == nil && known {
		err = journal.RecordTotal(ctx, w.db, run, total)
	}
	if err != nil {
		w.log.InfoContext(ctx, "the job's total is not known", "error", err)
	}
}

// totalOfPurge records how many events a purge below the depth will go through.
func (w *Worker) totalOfPurge(ctx context.Context, job journal.Job, run journal.Run, before int64) {
	w.recordTotal(ctx, job, run, func() (int64, bool, error) { return extent.OfPurge(ctx, w.db, job.Room, before) })
}

// totalOfDelete records how many events a delete will go through.
func (w *Worker) totalOfDelete(ctx context.Context, job journal.Job, run journal.Run) {
	w.recordTotal(ctx, job, run, func() (int64, bool, error) { return extent.OfDelete(ctx, w.db, job.Room) })
}

// totalOfSweep records how many rooms a sweep will go through.
func (w *Worker) totalOfSweep(ctx context.Context, job journal.Job, run journal.Run) {
	w.recordTotal(ctx, job, run, func() (int64, bool, error) { return extent.OfSweep(ctx, w.db) })
}
