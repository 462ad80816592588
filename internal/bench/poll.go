package bench

import (
	"context"
	"fmt"
	"time"

	"lethe/internal/wait"
)

// pollInterval is the wait between two looks at what has ended. It does not limit
// the precision: the benchmark uses the times in the rows of the jobs.
const pollInterval = 10 * time.Millisecond

// poll calls done until it returns true or an error. The error of an ended context
// says what poll was waiting for.
func poll(ctx context.Context, what string, done func() (bool, error)) error {
	for {
		ended, err := done()
		if ended || err != nil {
			return err
		}
		if err := wait.For(ctx, pollInterval); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}
