package postgres

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Transient reports whether another attempt may succeed: the server was unreachable,
// restarting or short of a resource, the transaction lost a race, or a wait was cut
// short.
func Transient(err error) bool {
	var pg *pgconn.PgError
	switch {
	case Unreachable(err):
		return true
	case !errors.As(err, &pg):
		return pgconn.Timeout(err)
	}
	return hasClass(pg, "40", // serialization failure, deadlock
		"53", // insufficient resources
		"55", // lock not available, object in use
		"57", // shutting down, starting up, cancelled
		"58", // system error
	) || pg.Code == "25P03" || // idle in a transaction for too long
		pg.Code == "23503" // another transaction added a reference
}

// Unreachable reports whether the database cannot be used at this moment, for a
// reason that lies neither in the job nor in its data. A refused connection counts:
// usually the operator is changing something.
func Unreachable(err error) bool {
	var connect *pgconn.ConnectError
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &connect):
		return true
	case errors.As(err, &pg):
		return hasClass(pg, "08") || // connection exception
			pg.Code == "25006" || // read only: a standby, after a failover
			pg.Code == "57P01" || pg.Code == "57P02" || pg.Code == "57P03" // shutting down, starting up
	}
	return pgconn.SafeToRetry(err) || isConnectionError(err)
}

// IsRowError reports whether the error comes from the rows that a statement
// processed. The same statement may then succeed with the rows of another room.
func IsRowError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && !Transient(err) && hasClass(pg, "22", // data exception
		"23", // integrity constraint
		"54", // too large
		"P0", // raised by a trigger
		"XX", // corrupted
	)
}

// IsDataError reports whether the error says that the data is not as expected. A
// failure of the server or of the connection is no data error.
func IsDataError(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return hasClass(pg, "21", "22", "23", // cardinality, data, integrity
			"P0") // raised by a trigger
	}
	return !Transient(err)
}

// HasCode reports whether the server returned the error with this SQLSTATE.
func HasCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// IsLocked reports whether a statement gave up the wait for a lock that another transaction
// has.
func IsLocked(err error) bool { return HasCode(err, "55P03") }

// IsFull reports whether the server has no space left on its disk.
func IsFull(err error) bool { return HasCode(err, "53100") }

// WaitsForSpace says in words that a job waits for the end of what [IsFull] reports.
const WaitsForSpace = "waiting: space on PostgreSQL's disk"

func hasClass(err *pgconn.PgError, classes ...string) bool {
	return slices.ContainsFunc(classes, func(class string) bool { return strings.HasPrefix(err.Code, class) })
}

// isConnectionError reports whether the connection failed, as opposed to the
// statement.
func isConnectionError(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed)
}

// IsCorruption reports whether the server has found its own data to be corrupt.
func IsCorruption(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && hasClass(pg, "XX")
}
