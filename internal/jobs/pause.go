package jobs

import (
	"context"
	"time"

	"lethe/internal/wait"
)

const (
	// maxPause is the longest pause in which a job keeps its slot. A job with a longer pause
	// yields, for at most maxYield at a time.
	maxPause = 5 * time.Second
	maxYield = time.Minute
)

// Pause waits for the debt, at most 5 s, and returns how long it has waited. If the debt is
// longer, it returns a [YieldError] of the reason, for the rest. The end of the context ends
// the wait: the caller sees why.
func Pause(ctx context.Context, debt time.Duration, reason Yield) (waited time.Duration, err error) {
	if debt <= 0 {
		return 0, nil
	}
	started := time.Now()
	_ = wait.For(ctx, min(debt, maxPause))
	if debt > maxPause {
		err = YieldError{Reason: reason, After: min(debt-maxPause, maxYield)}
	}
	return time.Since(started), err
}
