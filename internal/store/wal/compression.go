package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// A Compression is what Lethe sets wal_compression to, for its own sessions. Most of the
// log of a purge are images of whole pages, which are what PostgreSQL compresses.
type Compression string

const (
	// Auto is the best compression that the server was built with. A role that may not set
	// it works with the server's own setting.
	Auto Compression = "auto"
	// Off leaves the server's own setting.
	Off Compression = "off"
	// PGLZ is the compression that every server has.
	PGLZ Compression = "pglz"
	// LZ4 makes the log smaller than PGLZ, in less time.
	LZ4 Compression = "lz4"
	// Zstd makes it smaller than LZ4.
	Zstd Compression = "zstd"
)

// ErrUnusable is returned if a compression that was named cannot be set.
var ErrUnusable = errors.New("worker.wal_compression cannot be used")

// ErrNoRole is returned when the server has no role of the name.
var ErrNoRole = errors.New("the server has no such role")

// best are the values of wal_compression, the best first. Before PostgreSQL 15 PGLZ is
// called on.
var best = []string{"zstd", "lz4", "pglz", "on"}

// A Server is what a server lets a role set.
type Server struct {
	// Own is the server's own setting for the role's sessions.
	Own string

	// Built are the values that compress, the best first.
	Built []string

	// May says that the role may set one. OnlySuperusers says that this cannot be granted,
	// as before PostgreSQL 15.
	May, OnlySuperusers bool

	// Grant is the statement that lets the role set it.
	Grant string
}

// Look returns what the server lets the role set. With the name "" it is the role of the
// connection. It fails with [ErrNoRole] if there is no such role.
func Look(ctx context.Context, q postgres.Querier, role string) (Server, error) {
	var s Server
	var superuser bool
	var values []string
	var version int
	err := q.QueryRow(ctx, `
		SELECT r.rolsuper, coalesce(s.enumvals, ARRAY['on', 'off']), s.reset_val, current_setting('server_version_num')::int,
		       pg_catalog.format('GRANT SET ON PARAMETER wal_compression TO %I;', r.rolname), r.rolname::text
		FROM pg_settings s, pg_roles r
		WHERE s.name = 'wal_compression' AND r.rolname = coalesce(nullif($1::text, '')::name, current_user::name)`, role).
		Scan(&superuser, &values, &s.Own, &version, &s.Grant, &role)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Server{}, ErrNoRole
	case err != nil:
		return Server{}, fmt.Errorf("look for the compression of WAL: %w", err)
	}
	for _, value := range best {
		// From PostgreSQL 15 on is another name of pglz.
		if slices.Contains(values, value) && !(value == "on" && len(s.Built) > 0) {
			s.Built = append(s.Built, value)
		}
	}
	const parametersGranted = 15_00_00
	s.May, s.OnlySuperusers = superuser, version < parametersGranted
	if superuser || s.OnlySuperusers {
		return s, nil
	}
	if err := q.QueryRow(ctx, `SELECT has_parameter_privilege($1::name, 'wal_compression', 'SET')`, role).Scan(&s.May); err != nil {
		return Server{}, fmt.Errorf("look for the right to compress WAL: %w", err)
	}
	return s, nil
}

// Compresses reports whether the server's own setting compresses.
func (s Server) Compresses() bool { return s.Own != "off" }

// Value returns what to set wal_compression to, "" for nothing. It fails with
// [ErrUnusable] if the compression was named and cannot be set. For [Auto] that is no
// error.
func (s Server) Value(c Compression) (string, error) {
	switch {
	case c == Off:
		return "", nil
	case c == Auto && (!s.May || len(s.Built) == 0):
		return "", nil
	case c == Auto:
		return s.Built[0], nil
	}
	value := string(c)
	if c == PGLZ && !slices.Contains(s.Built, value) {
		value = "on"
	}
	switch {
	case !slices.Contains(s.Built, value):
		return "", fmt.Errorf("%w: it is %s, and the server can compress by %s only", ErrUnusable, c, strings.Join(s.Built, ", "))
	case !s.May && s.OnlySuperusers:
		return "", fmt.Errorf("%w: it is %s, and before PostgreSQL 15 only a superuser may set it", ErrUnusable, c)
	case !s.May:
		return "", fmt.Errorf("%w: it is %s, and the role may not set it: %s", ErrUnusable, c, s.Grant)
	}
	return value, nil
}

// Check fails with [ErrUnusable] if the compression was named and the role of the
// connection cannot set it.
func Check(ctx context.Context, q postgres.Querier, c Compression) error {
	if c == Auto || c == Off {
		return nil
	}
	server, err := Look(ctx, q, "")
	if err == nil {
		_, err = server.Value(c)
	}
	return err
}

// Setter returns a function that sets the compression for a new session, for
// [postgres.Options]. If that fails, the session works without, and the log says so once.
// A GRANT is used from the next session on.
func Setter(c Compression, log *slog.Logger) func(context.Context, *pgx.Conn) error {
	var said sync.Once
	return func(ctx context.Context, conn *pgx.Conn) error {
		value, err := set(ctx, conn, c)
		if postgres.Unreachable(err) {
			return err
		}
		said.Do(func() {
			switch {
			case err != nil:
				log.WarnContext(ctx, "the WAL of batches is not compressed", "error", err)
			case value == "" && c != Off:
				log.InfoContext(ctx, "wal_compression is left as the server has it: lethe doctor says why")
			case value != "":
				log.InfoContext(ctx, "the WAL of batches is compressed", "wal_compression", value)
			}
		})
		return nil
	}
}

// set sets the compression for the session, and returns the value.
func set(ctx context.Context, conn *pgx.Conn, c Compression) (value string, err error) {
	if c == Off {
		return "", nil
	}
	server, err := Look(ctx, conn, "")
	if err != nil {
		return "", err
	}
	if value, err = server.Value(c); value != "" {
		_, err = conn.Exec(ctx, `SELECT set_config('wal_compression', $1::text, false)`, value)
	}
	return value, err
}
