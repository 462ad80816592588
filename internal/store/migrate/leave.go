package migrate

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"lethe/internal/output"
)

var (
	// ErrInUse is returned instead of changing a schema that a process of Lethe uses, or
	// that has jobs that have not ended.
	ErrInUse = errors.New("Lethe's tables are in use")

	// ErrHolds is returned instead of dropping holds of which there is no copy.
	ErrHolds = errors.New("rooms are held, and their holds were not exported")

	// ErrVersion is returned for a version that Down cannot go to.
	ErrVersion = errors.New("the schema cannot have this version")
)

// maxNamed is how many rooms or processes an error names.
const maxNamed = 5

// A Hold is a hold that was exported.
type Hold struct{ Room, Reason string }

// Leaving says what may be lost when Lethe's tables change back or go.
type Leaving struct {
	// Exported are the holds of which there is a copy. Defaults to none.
	Exported []Hold

	// AbandonJobs drops the record of jobs that have not ended, too. Defaults to false: they
	// are an error.
	AbandonJobs bool
}

// lockTables makes sure that no hold is placed and no job is accepted until the transaction
// ends. Tables that are missing, in an old schema, are not locked.
const lockTables = `
	DO $$
	DECLARE name text;
	BEGIN
		FOREACH name IN ARRAY ARRAY['lethe.jobs', 'lethe.holds'] LOOP
			IF to_regclass(name) IS NOT NULL THEN
				EXECUTE 'LOCK TABLE ' || name || ' IN SHARE ROW EXCLUSIVE MODE';
			END IF;
		END LOOP;
	END $$`

// Down migrates Lethe's own schema back to a version: the number of the last migration
// that stays. It does nothing if the schema has that version, and fails with [ErrVersion]
// if the schema is older. It fails with [ErrInUse] while a process of Lethe is connected,
// and with [ErrHolds] while rooms are held whose holds were not exported: an older Lethe
// may not know holds. Jobs that have not ended stay.
func Down(ctx context.Context, url string, version int64, leaving Leaving) error {
	err := withDatabase(ctx, url, func(ctx context.Context, db *sql.DB) error {
		var exists bool
		if err := db.QueryRowContext(ctx, `SELECT to_regclass('lethe.migrations_lethe') IS NOT NULL`).Scan(&exists); err != nil {
			return err
		}
		if !exists {
			return fmt.Errorf("%w: Lethe's tables are missing", ErrVersion)
		}
		provider, err := migrator(db, "lethe")
		if err != nil {
			return err
		}
		current, newest, err := provider.GetVersions(ctx)
		switch {
		case err != nil:
			return err
		case current > newest:
			return versionError(current, newest)
		case version < 0 || version > current:
			return fmt.Errorf("%w: it is version %d, and can go back to 0 at most", ErrVersion, current)
		case version == current:
			return nil
		}
		leaving.AbandonJobs = true // their rows stay
		if err := inTransaction(ctx, db, leaving.check); err != nil {
			return err
		}
		_, err = provider.DownTo(ctx, version)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate the database back: %w", err)
	}
	return nil
}

// Uninstall drops the schema lethe, with everything in it. It changes nothing else: the
// tables of the homeserver stay, also those that [UpEmbedded] has made. It fails with
// [ErrInUse] while a process of Lethe is connected or a job has not ended, and with
// [ErrHolds] while rooms are held whose holds were not exported. If it fails, nothing has
// changed. A second call finds no schema and does nothing.
func Uninstall(ctx context.Context, url string, leaving Leaving) error {
	err := withDatabase(ctx, url, func(ctx context.Context, db *sql.DB) error {
		return inTransaction(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			if err := leaving.check(ctx, tx); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `DROP SCHEMA IF EXISTS lethe CASCADE`)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("remove Lethe's tables: %w", err)
	}
	return nil
}

// CheckUninstall fails if [Uninstall] would.
func CheckUninstall(ctx context.Context, url string, leaving Leaving) error {
	err := withDatabase(ctx, url, func(ctx context.Context, db *sql.DB) error { return inTransaction(ctx, db, leaving.check) })
	if err != nil {
		return fmt.Errorf("remove Lethe's tables: %w", err)
	}
	return nil
}

// inTransaction calls do in a transaction, which it commits if do succeeds. It does not
// wait long for a process that has a table locked.
func inTransaction(ctx context.Context, db *sql.DB, do func(context.Context, *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, `SET LOCAL lock_timeout = '10s'`); err != nil {
		return err
	}
	if err := do(ctx, tx); err != nil {
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "55P03" { // lock not available
			return fmt.Errorf("%w: another session has locked them", ErrInUse)
		}
		return err
	}
	return tx.Commit()
}

// check locks Lethe's tables, and returns why they must stay.
func (l Leaving) check(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, lockTables); err != nil {
		return err
	}
	if err := checkProcesses(ctx, tx); err != nil {
		return err
	}
	if err := l.checkHolds(ctx, tx); err != nil || l.AbandonJobs {
		return err
	}
	return checkJobs(ctx, tx)
}

// checkProcesses returns [ErrInUse] if a process of Lethe is connected to the database.
// Commands, such as the doctor, do not count.
func checkProcesses(ctx context.Context, tx *sql.Tx) error {
	names, err := texts(ctx, tx, `
		SELECT DISTINCT application_name FROM pg_stat_activity
		WHERE datname = current_database() AND application_name ~ '^lethe( (api|worker|scheduler))+$'
		ORDER BY application_name`)
	if err != nil || len(names) == 0 {
		return err
	}
	return fmt.Errorf("%w: stop %s first", ErrInUse, named(names))
}

// checkHolds returns [ErrHolds] if rooms are held whose holds were not exported.
func (l Leaving) checkHolds(ctx context.Context, tx *sql.Tx) error {
	if exists, err := has(ctx, tx, "lethe.holds"); err != nil || !exists {
		return err
	}
	rows, err := tx.QueryContext(ctx, `SELECT room_id, reason FROM lethe.holds WHERE released_at IS NULL ORDER BY placed_at, id`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // Err says what is wrong
	var lost []string
	for rows.Next() {
		var hold Hold
		if err := rows.Scan(&hold.Room, &hold.Reason); err != nil {
			return err
		}
		if !slices.Contains(l.Exported, hold) {
			lost = append(lost, hold.Room)
		}
	}
	if err := rows.Err(); err != nil || len(lost) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s", ErrHolds, named(lost))
}

// checkJobs returns [ErrInUse] if there is work left for a worker.
func checkJobs(ctx context.Context, tx *sql.Tx) error {
	for _, work := range []struct{ table, counts, name, does, do string }{
		{"lethe.jobs", `SELECT count(*) FROM lethe.jobs WHERE ended_at IS NULL`, "job", "has not ended", "have not ended"},
		{"lethe.delayed_mappings", `SELECT count(*) FROM lethe.delayed_mappings`, "state mapping", "is still to be deleted", "are still to be deleted"},
	} {
		exists, err := has(ctx, tx, work.table)
		if err != nil {
			return err
		}
		if !exists {
			continue
		}
		var n int64
		if err := tx.QueryRowContext(ctx, work.counts).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%w: %s %s", ErrInUse, output.Counted(n, work.name), output.Agree(n, work.does, work.do))
		}
	}
	return nil
}

// has reports whether a table exists.
func has(ctx context.Context, tx *sql.Tx, table string) (exists bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT to_regclass($1) IS NOT NULL`, table).Scan(&exists)
	return exists, err
}

// texts returns the rows of a query with one column.
func texts(ctx context.Context, tx *sql.Tx, query string) (found []string, err error) {
	rows, err := tx.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err says what is wrong
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		found = append(found, text)
	}
	return found, rows.Err()
}

// named returns the first names, and how many more there are.
func named(names []string) string {
	if len(names) <= maxNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
}
