package census

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
	"lethe/internal/store/postgres"
)

// Compat returns the compat_version of Synapse's schema: a program that was made for
// an older version of the schema must not use the database. It is 0 if Lethe has made
// the tables.
func Compat(ctx context.Context, db *postgres.DB) (compat int, err error) {
	has, err := db.HasTable(ctx, "schema_compat_version")
	if err == nil && has {
		err = db.ReadRow(ctx, []any{&compat}, `SELECT coalesce(max(compat_version), 0) FROM schema_compat_version`)
	}
	if err != nil {
		return 0, fmt.Errorf("read the compat_version: %w", err)
	}
	return compat, nil
}

// Versions are what Synapse has recorded about its schema.
type Versions struct {
	// Version and Compat are schema_version and compat_version.
	Version, Compat int

	// Deltas is the number of changes in applied_schema_deltas, and Unknown are the
	// names of those that Lethe was not tested with, sorted.
	Deltas  int
	Unknown []string
}

// ReadVersions returns what Synapse has recorded about its schema. ok is false if
// there is no record, because Lethe has made the tables.
func ReadVersions(ctx context.Context, db *postgres.DB) (v Versions, ok bool, err error) {
	const operation = "read the versions of the schema"
	for _, table := range []string{"schema_version", "applied_schema_deltas"} {
		if has, err := db.HasTable(ctx, table); err != nil || !has {
			return Versions{}, false, err
		}
	}
	if v.Compat, err = Compat(ctx, db); err != nil {
		return Versions{}, false, err
	}
	if err := db.ReadRow(ctx, []any{&v.Version}, `SELECT coalesce(max(version), 0) FROM schema_version`); err != nil {
		return Versions{}, false, fmt.Errorf("%s: %w", operation, err)
	}
	rows, err := db.Query(ctx, `SELECT version, file FROM applied_schema_deltas ORDER BY version, file`)
	if err != nil {
		return Versions{}, false, fmt.Errorf("%s: %w", operation, err)
	}
	var version int
	var file string
	if _, err := pgx.ForEachRow(rows, []any{&version, &file}, func() error {
		v.Deltas++
		if !schema.KnownDelta(version, file) {
			v.Unknown = append(v.Unknown, file)
		}
		return nil
	}); err != nil {
		return Versions{}, false, fmt.Errorf("%s: %w", operation, err)
	}
	return v, true, nil
}
