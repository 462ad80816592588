package wait

import (
	"context"
	"time"
)

// A Backoff is the wait between attempts. It serves one goroutine. A copy that has
// not waited yet may serve another.
type Backoff struct {
	// Min is the wait after the first attempt. Each wait is twice as long as the one
	// before. It has no default.
	Min time.Duration

	// Max is the longest wait. Defaults to Min, with which all waits are equal.
	Max time.Duration

	next time.Duration
}

// Wait waits before the next attempt, for a jittered time. It returns the context's
// cause if the context ends first.
func (b *Backoff) Wait(ctx context.Context) error {
	d := max(b.next, b.Min)
	b.next = min(2*d, max(b.Max, b.Min))
	return For(ctx, Jitter(d))
}

// Reset makes the next wait as short as the first.
func (b *Backoff) Reset() { b.next = 0 }

// Retry calls do until it succeeds, until again reports that its error is not worth
// another attempt, or until the context ends. It calls do at least once, and returns
// its last error.
func Retry(ctx context.Context, backoff Backoff, again func(error) bool, do func() error) error {
	for {
		err := do()
		if err == nil || !again(err) || backoff.Wait(ctx) != nil {
			return err
		}
	}
}
