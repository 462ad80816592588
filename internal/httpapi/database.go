package httpapi

import (
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
	errDatabaseLocked = &wire.Error{
		Status: http.StatusServiceUnavailable, Code: "M_UNKNOWN", Text: "Another transaction has locked what the request needs", RetryAfter: 2000,
	}
)

// databaseRefusal returns the error of a handler with the refusal that tells the caller to
// ask again, if the database could not be used. It returns any other error as it is.
func databaseRefusal(err error) error {
	var refused *wire.Error
	switch {
	case errors.As(err, &refused):
	case postgres.Unreachable(err):
		return fmt.Errorf("%w: %w", errDatabaseDown, err)
	case postgres.IsLocked(err):
		return fmt.Errorf("%w: %w", errDatabaseLocked, err)
	}
	return err
}
