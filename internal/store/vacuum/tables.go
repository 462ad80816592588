package vacuum

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// blockSize is the size of a page in bytes.
const blockSize = 8192

// Facts are what the server's statistics say of a table.
type Facts struct {
	// Name is the table's name, OID its id, and Qualified its name with its schema, quoted.
	Name      string
	OID       uint32
	Qualified string

	// Live and Dead are estimates of the numbers of its rows. The server may learn of deletes
	// some seconds late.
	Live, Dead int64

	// Pages is the number of the table's pages.
	Pages int64

	// Vacuumed says that some session, or autovacuum, has ended a VACUUM of the table in the
	// time that was asked for.
	Vacuumed bool

	// The sizes are in bytes, of the table, its indexes and its TOAST table. Chunks is the
	// number of rows of the latter. Width is the average size of a row in the table, 0 if the
	// role may not know it.
	size, indexes, toast, chunks int64
	width                        float64
}

// facts selects those of the tables $1 that are in the homeserver's schema. A VACUUM within the last $2 ms counts. A row takes 28 bytes
// besides its columns, and on average 4 to align it.
const facts = `
	SELECT n.name, c.oid::bigint, pg_catalog.format('%I.%I', s.nspname, c.relname),
	       coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), greatest(c.reltuples, 0::real)::bigint), pg_stat_get_dead_tuples(c.oid),
	       coalesce(greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))
	                > clock_timestamp() - $2::bigint::float8 * interval '1 ms', false),
	       pg_relation_size(c.oid::regclass), pg_indexes_size(c.oid::regclass),
	       CASE WHEN c.reltoastrelid <> 0::oid THEN pg_total_relation_size(c.reltoastrelid::regclass) ELSE 0 END,
	       CASE WHEN c.reltoastrelid <> 0::oid THEN pg_stat_get_live_tuples(c.reltoastrelid) ELSE 0 END,
	       coalesce((
	         SELECT 32.0::float8 + sum(t.avg_width::float8 * (1.0::float8 - t.null_frac::float8))
	         FROM pg_stats t WHERE t.schemaname = s.nspname AND t.tablename = c.relname AND NOT t.inherited), 0::float8)
	FROM pg_catalog.unnest($1::text[]) AS n (name)
	JOIN pg_class c ON c.oid = to_regclass(quote_ident(n.name))::oid AND c.relkind = 'r'
	JOIN pg_namespace s ON s.oid = c.relnamespace
	WHERE c.relnamespace = (SELECT e.relnamespace FROM pg_class e WHERE e.oid = to_regclass('events')::oid)`

// Facts returns the facts of those of the tables that the homeserver's schema has. Vacuums since so
// many milliseconds count for [Facts.Vacuumed].
func (q *Queries) Facts(ctx context.Context, names []string, sinceMS int64) ([]Facts, error) {
	found, err := postgres.ReadAll(ctx, q.db, func(row pgx.CollectableRow) (f Facts, err error) {
		var oid int64
		err = row.Scan(&f.Name, &oid, &f.Qualified, &f.Live, &f.Dead, &f.Vacuumed, &f.size, &f.indexes, &f.toast, &f.chunks, &f.width)
		f.OID, f.Pages = uint32(oid), f.size/blockSize
		return f, err
	}, facts, names, sinceMS)
	if err != nil {
		return nil, fmt.Errorf("read the statistics of tables: %w", err)
	}
	return found, nil
}
