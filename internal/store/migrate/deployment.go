package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"lethe/internal/store/postgres"
)

// ErrCopied is returned for a database that is not the one for which its deployment's id
// was made: it was copied or restored, or pg_upgrade has moved it. With that id its
// processes could take the tasks of another deployment out of their Redis.
var ErrCopied = errors.New("this database was copied or restored, or its server was upgraded: run " +
	"`lethe migrate --new-id` if the original stays in use, or `lethe migrate --same-id` if this database takes its place")

// isItself is the condition that a row of lethe.deployment was made for this database. A
// server that does not tell its identifier is told by the database's oid alone.
const isItself = `
	coalesce(system_identifier = lethe.system_identifier(), true)
	AND database_oid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())`

// Deployment returns the id of the deployment whose database this is. It fails with
// [ErrCopied] if the id was made for another database, and returns the id then too.
func Deployment(ctx context.Context, db *postgres.DB) (id string, err error) {
	var itself bool
	if err := db.ReadRow(ctx, []any{&id, &itself}, `SELECT id, `+isItself+` FROM lethe.deployment`); err != nil {
		return "", fmt.Errorf("read the deployment's id: %w", err)
	}
	if !itself {
		err = ErrCopied
	}
	return id, err
}

// IDOf is [Deployment] for a URL.
func IDOf(ctx context.Context, url string) (id string, err error) {
	err = withDatabase(ctx, url, func(ctx context.Context, db *sql.DB) error {
		var itself bool
		if err := db.QueryRowContext(ctx, `SELECT id, `+isItself+` FROM lethe.deployment`).Scan(&id, &itself); err != nil {
			return fmt.Errorf("read the deployment's id: %w", err)
		}
		if !itself {
			return ErrCopied
		}
		return nil
	})
	return id, err
}

// SameID makes this the database for which the deployment's id was made. Use it only for a
// database that takes the place of the original. A second call changes nothing, and neither
// does one in a database without the table of the id.
func SameID(ctx context.Context, url string) error {
	err := withDatabase(ctx, url, func(ctx context.Context, db *sql.DB) error {
		return inTransaction(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			if exists, err := has(ctx, tx, "lethe.deployment"); err != nil || !exists {
				return err
			}
			return bind(ctx, tx)
		})
	})
	if err != nil {
		return fmt.Errorf("keep the deployment's id: %w", err)
	}
	return nil
}

// NewID gives the deployment of this database another id. Schedulers then enqueue all
// queued jobs under its names. It fails with [ErrInUse] while a process of Lethe is
// connected, which would go on with the names of before. Each call makes another id.
func NewID(ctx context.Context, url string) error {
	err := withDatabase(ctx, url, func(ctx context.Context, db *sql.DB) error {
		return inTransaction(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			if err := checkProcesses(ctx, tx); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `
				UPDATE lethe.deployment
				SET id = pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 1, 12)`); err != nil {
				return err
			}
			// No queue has a task under the new names.
			if _, err := tx.ExecContext(ctx, `UPDATE lethe.jobs SET task_missing_since = '-infinity' WHERE state = 'queued'`); err != nil {
				return err
			}
			return bind(ctx, tx)
		})
	})
	if err != nil {
		return fmt.Errorf("make a new id for the deployment: %w", err)
	}
	return nil
}

// bind writes down that the deployment's id is this database's.
func bind(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `
		UPDATE lethe.deployment
		SET system_identifier = lethe.system_identifier(), set_at = clock_timestamp(),
		    database_oid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
		WHERE NOT (`+isItself+`) OR system_identifier IS NULL`)
	return err
}
