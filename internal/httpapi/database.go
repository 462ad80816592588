package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

var (
	errDatabaseDown = &wire.Error{
		Status: http.StatusServiceUnavailable, Code: "M_UNKNOWN", Text: "The database cannot be reached", RetryAfter: 5000,
	}
	errTooSlow = &wire.Error{
		Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED", Text: "The request took too long in the database", RetryAfter: 10_000,
	}
	errDatabaseLocked = &wire.Error{
		Status: http.StatusServiceUnavailable, Code: "M_UNKNOWN", Text: "Another transaction has locked what the request needs", RetryAfter: 2000,
	}
)

// databaseRefusal returns the error of a handler with the refusal that tells the caller to
// ask again, if the database could not be used. It returns any other error as it is.
func databaseRefusal(ctx context.Context, err error) error {
	var refused *wire.Error
	switch {
	case errors.As(err, &refused), ctx.Err() != nil: // the caller has gone, or the request's time is over
	case postgres.Unreachable(err):
		return fmt.Errorf("%w: %w", errDatabaseDown, err)
	case postgres.HasCode(err, "57014"): // the timeout of a statement
		return fmt.Errorf("%w: %w", errTooSlow, err)
	case postgres.IsLocked(err):
		return fmt.Errorf("%w: %w", errDatabaseLocked, err)
	}
	return err
}
