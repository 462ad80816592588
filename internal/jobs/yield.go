package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

// A YieldError ends a run that gives its job back to the queue. The job has not failed.
type YieldError struct {
	Reason Yield

	// After is how long the job must stay in the queue. Defaults to 0.
	After time.Duration

	// WaitsFor is what the job waits for, in words. Defaults to "", its turn.
	WaitsFor string

	// Checkpoint is a checkpoint that no batch has stored. Defaults to nil, the one in
	// the job's row.
	Checkpoint any
}

// Error names the reason.
func (e YieldError) Error() string { return "yield: " + string(e.Reason) }

// Resumes reports whether the job only gives way to others, and goes on soon.
func (e YieldError) Resumes() bool { return e.Reason == YieldSlice || e.Reason == YieldDrain }

// lockLook is about how long a job stays in the queue before it looks whether the lock that
// it waits for is free, or the disk no longer full.
const lockLook = 2 * time.Second

// AwaitServer returns the [YieldError] of a run whose batch gave up the wait for a lock of
// another session, or found no space on the server's disk. The error says which. If the job
// has waited for the same longer than maxWait, it returns an error with the last one
// instead.
func AwaitServer(ctx context.Context, jobs *journal.Journal, run journal.Run, cause error, maxWait time.Duration) error {
	reason, kind, waitsFor := YieldRowLocked, postgres.WaitsForLock, ""
	var lock *postgres.LockError
	switch {
	case postgres.IsFull(cause):
		reason, kind, waitsFor = YieldDiskFull, postgres.WaitsForSpace, postgres.WaitsForSpace
	case errors.As(cause, &lock):
		waitsFor = lock.WaitsFor()
	default:
		waitsFor = (&postgres.LockError{Err: cause}).WaitsFor()
	}
	job, err := jobs.Job(ctx, run.JobID)
	// A job whose row cannot be read is tried again like the others.
	if err == nil && strings.HasPrefix(job.WaitsFor, kind) && job.WaitsSince > maxWait {
		return fmt.Errorf("gave up after %v: %w", job.WaitsSince.Round(time.Second), cause)
	}
	return YieldError{Reason: reason, After: wait.Jitter(lockLook), WaitsFor: waitsFor}
}
