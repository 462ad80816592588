package command

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// The exit statuses of every program.
const (
	// Done says that the command has done what it was asked for.
	Done = 0

	// Failed says that it could not, for any other reason than those below.
	Failed = 1

	// BadUsage says that the command line was wrong, and that nothing was done.
	BadUsage = 2

	// Refused says that Lethe does not do that: the room is held, the job has ended, the
	// room has changed since the plan.
	Refused = 3

	// TimedOut says that the time was over before the end.
	TimedOut = 4
)

// A StatusError is an error that decides the exit status.
type StatusError struct {
	// Status is one of the constants above.
	Status int

	// Err is why. A nil Err has been told to the user already.
	Err error
}

// Error implements error.
func (e *StatusError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

// Unwrap returns the error's cause.
func (e *StatusError) Unwrap() error { return e.Err }

// Usage returns an error about the command line, with the status [BadUsage].
func Usage(format string, args ...any) error {
	return &StatusError{Status: BadUsage, Err: fmt.Errorf(format, args...)}
}

// Status returns the exit status of an error.
func Status(err error) int {
	var decided *StatusError
	switch {
	case err == nil:
		return Done
	case errors.As(err, &decided):
		return decided.Status
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return TimedOut
	}
	return Failed
}
