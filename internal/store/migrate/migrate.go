package migrate

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

var (
	// ErrSchema is returned when Lethe's schema is missing, or has another version than
	// this program needs.
	ErrSchema = errors.New("the database's schema does not fit this program")

	// ErrNotEmpty is returned instead of making Synapse's tables in a database that
	// already has tables.
	ErrNotEmpty = errors.New("the database has tables already")
)

//go:embed migrations
var migrations embed.FS

// Up migrates Lethe's own schema, lethe, to this program's version. It does nothing
// if the schema has that version, and fails with [ErrSchema] if it is newer.
// Concurrent calls wait for each other.
func Up(ctx context.Context, url string) error {
	return up(ctx, url, "lethe", func(ctx context.Context, db *sql.DB) error {
		// Check first, because IF NOT EXISTS requires the right to create schemas even
		// if the schema exists.
		var exists bool
		err := db.QueryRowContext(ctx, `SELECT to_regnamespace('lethe') IS NOT NULL`).Scan(&exists)
		if err != nil || exists {
			return err
		}
		_, err = db.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS lethe`)
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (pg.Code == "23505" || pg.Code == "42P06") {
			return nil // a concurrent migration has made it, which IF NOT EXISTS does not cover
		}
		return err
	})
}

// UpEmbedded makes the tables of Synapse's that Lethe uses, in a database without
// tables. In a database where it has made them before, it migrates them to this
// program's version. In any other database it fails with [ErrNotEmpty].
func UpEmbedded(ctx context.Context, url string) error {
	refuseTables := func(ctx context.Context, db *sql.DB) error {
		var tables bool
		err := db.QueryRowContext(ctx, `
			SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')
			   AND to_regclass('lethe.migrations_embedded') IS NULL`).Scan(&tables)
		if err == nil && tables {
			err = ErrNotEmpty
		}
		return err
	}
	// Check before making anything, since a refusal must change nothing.
	if err := withDatabase(ctx, url, refuseTables); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	if err := Up(ctx, url); err != nil {
		return err
	}
	return up(ctx, url, "embedded", refuseTables)
}

// withDatabase calls do with a pool, and closes it afterwards.
func withDatabase(ctx context.Context, url string, do func(context.Context, *sql.DB) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	// By default a role's own schema comes first, and the role may be called lethe.
	config.RuntimeParams["search_path"] = "public, pg_temp"
	db := stdlib.OpenDB(*config)
	defer func() { _ = db.Close() }()
	return do(ctx, db)
}

// up runs one set of migrations. The set's version is stored in the table
// lethe.migrations_<set>.
func up(ctx context.Context, url, set string, prepare func(context.Context, *sql.DB) error) error {
	err := withDatabase(ctx, url, func(ctx context.Context, db *sql.DB) error {
		if err := prepare(ctx, db); err != nil {
			return err
		}
		provider, err := migrator(db, set)
		if err != nil {
			return err
		}
		current, target, err := provider.GetVersions(ctx)
		switch {
		case err != nil:
			return err
		case current > target:
			return versionError(current, target)
		case current == target:
			return nil
		}
		_, err = provider.Up(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}

func migrator(db *sql.DB, set string) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations/"+set)
	if err != nil {
		return nil, err
	}
	versions, err := database.NewStore(database.DialectPostgres, "lethe.migrations_"+set)
	if err != nil {
		return nil, err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300)) // tries each second, for five minutes
	if err != nil {
		return nil, err
	}
	return goose.NewProvider("", db, files, goose.WithStore(versions), goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true))
}

func versionError(current, target int64) error {
	switch {
	case current > target:
		return fmt.Errorf("%w: it is version %d and this program knows %d: run a newer Lethe", ErrSchema, current, target)
	case current < target:
		return fmt.Errorf("%w: it is version %d and this program needs %d: run `lethe migrate`", ErrSchema, current, target)
	}
	return nil
}

// CheckSchema fails with [ErrSchema] unless Lethe's schema has this program's
// version and Synapse's schema is one that Lethe was tested with. The error says
// what to do.
func CheckSchema(ctx context.Context, db *postgres.DB) error {
	var hasLethe, hasEmbedded, hasEvents bool
	if err := db.QueryRow(ctx, `
		SELECT to_regclass('lethe.migrations_lethe') IS NOT NULL, to_regclass('lethe.migrations_embedded') IS NOT NULL,
		       to_regclass('events') IS NOT NULL`).
		Scan(&hasLethe, &hasEmbedded, &hasEvents); err != nil {
		return fmt.Errorf("check the schema: %w", err)
	}
	if !hasLethe {
		return fmt.Errorf("%w: Lethe's own is missing: run `lethe migrate`", ErrSchema)
	}
	if !hasEvents {
		return fmt.Errorf("%w: this is not a homeserver's database: it has no table events", ErrSchema)
	}
	if err := checkVersion(ctx, db, "lethe"); err != nil {
		return err
	}
	if hasEmbedded {
		return checkVersion(ctx, db, "embedded")
	}
	return nil
}

// checkVersion compares the stored version of a set of migrations with this
// program's version, which is the number of its files.
func checkVersion(ctx context.Context, db *postgres.DB, set string) error {
	files, err := fs.Glob(migrations, "migrations/"+set+"/*.sql")
	if err != nil {
		return fmt.Errorf("check the schema: %w", err)
	}
	var current int64
	if err := db.QueryRow(ctx, `
		SELECT coalesce(max(version_id) FILTER (WHERE is_applied), 0) FROM lethe.migrations_`+set).Scan(&current); err != nil {
		return fmt.Errorf("check the schema: %w", err)
	}
	return versionError(current, int64(len(files)))
}

// MadeBySynapse reports whether Synapse has made its tables, and not [UpEmbedded].
func MadeBySynapse(ctx context.Context, db *postgres.DB) (bool, error) {
	var made bool
	err := db.QueryRow(ctx, `SELECT to_regclass('lethe.migrations_embedded') IS NULL`).Scan(&made)
	if err != nil {
		return false, fmt.Errorf("check who made the schema: %w", err)
	}
	return made, nil
}

// HasUsersOf reports whether a user of the database belongs to the server. It also
// returns true if the database has no users.
func HasUsersOf(ctx context.Context, db *postgres.DB, serverName string) (bool, error) {
	var has bool
	err := db.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM users WHERE right(name, length($1) + 1) = ':' || $1)
		    OR NOT EXISTS (SELECT FROM users)`, serverName).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("look for users of the server: %w", err)
	}
	return has, nil
}

// ErrNoServerName is returned by [ServerName] if the database does not say.
var ErrNoServerName = errors.New("the database has no user who would tell the name of this server: set LETHE_SERVER_NAME")

// ServerName returns the name of the homeserver, as the ids of its users have it.
func ServerName(ctx context.Context, db *postgres.DB) (name string, err error) {
	err = db.QueryRow(ctx, `
		SELECT coalesce((SELECT substring(name FROM '^@[^:]*:(.+)$') FROM users WHERE name ~ '^@[^:]*:.+$' LIMIT 1), '')`).Scan(&name)
	switch {
	case err != nil:
		return "", fmt.Errorf("look for the name of the server: %w", err)
	case name == "":
		return "", ErrNoServerName
	}
	return name, nil
}
