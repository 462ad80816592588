package jobs

import "time"

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
