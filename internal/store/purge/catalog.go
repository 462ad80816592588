package purge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"lethe/internal/schema"
	"lethe/internal/store/census"
	"lethe/internal/store/postgres"
)

// ErrCatalog is returned when the database has something that Lethe does not know
// and that a delete could harm, or lacks something that a delete needs.
var ErrCatalog = errors.New("the database is not as Lethe knows it")

// A scope is the tables that one kind of purge uses.
type scope struct {
	use schema.Use

	// byEvent are the tables from which a batch deletes the rows of its events. It
	// turns their triggers off where the role has the right.
	byEvent []string
}

// UsedTables returns the names of the tables that purges and deletes use, sorted.
func UsedTables() []string {
	tables := slices.Concat(schema.UsedBy(schema.UsePurge|schema.UseDelete), schema.Referencing())
	slices.Sort(tables)
	return slices.Compact(tables)
}

// historyScope is the scope of a history purge.
var historyScope = scope{use: schema.UsePurge, byEvent: historyByEvent}

var historyByEvent = []string{
	"event_auth",
	"event_edges",
	"event_expiry",
	"event_failed_pull_attempts",
	"event_forward_extremities",
	"event_json",
	"event_labels",
	"event_push_actions",
	"event_push_actions_staging",
	"event_relations",
	"event_search",
	"event_to_state_groups",
	"events",
	"federation_inbound_events_staging",
	"redactions",
	"rejections",
	"sticky_events",
	"stream_ordering_to_exterm",
}

// A Catalog says which of the known tables a database has, and how deletes from them
// keep its references intact.
type Catalog struct {
	scope   *scope
	present []string

	// byRoom are the present tables with an index that begins with room_id.
	byRoom []string

	// rules are the operator's rules for tables that the database has.
	rules schema.Rules

	// references are the foreign keys to events.
	references []Reference

	// setWise says that a batch of setWiseFrom events or more may check all references
	// with one statement. If it is false, the server must check them for each deleted
	// row, and rowWiseReason says why.
	setWise       bool
	setWiseFrom   int64
	rowWiseReason string
}

// A Reference is a column of a table that holds a key of events.
type Reference struct {
	// Table and Column are quoted for SQL. Key is the column of events.
	Table, Column, Key string

	// Cascade says that a row goes when its event is deleted.
	Cascade bool
}

// String returns the column with its table.
func (r Reference) String() string { return r.Table + "." + r.Column }

// References returns the foreign keys to events.
func (c Catalog) References() []Reference { return c.references }

// Rules returns the operator's rules for tables that the database has.
func (c Catalog) Rules() schema.Rules { return c.rules }

func (c Catalog) has(table string) bool { return slices.Contains(c.present, table) }

// DeletesByEvent reports whether batches delete a table's rows by their event_id.
func (c Catalog) DeletesByEvent(table string) bool {
	return slices.Contains(c.scope.byEvent, table) || c.rules[table] == schema.DeleteByEvent
}

// RowWise says why batches let the server check references row by row, which takes
// about six times as long. It is "" if they check them set-wise.
func (c Catalog) RowWise() string {
	if c.setWise {
		return ""
	}
	return cmp.Or(c.rowWiseReason, "the catalog was not read")
}

// setRowWise makes batches let the server check references, for the given reason.
func (c *Catalog) setRowWise(reason string) { c.setWise, c.rowWiseReason = false, reason }

// HistoryCatalog reads the catalog for a history purge. It fails with an error that
// wraps [ErrCatalog] and names the table when a table, column, type, unique key or
// cascade that the purge needs is missing or different, when an unknown table
// references or inherits from a table that the purge deletes from, when such a table
// has an unknown enabled trigger or rule, or row security that hides rows, or when
// Synapse's compat_version is too new.
func (p *Purger) HistoryCatalog(ctx context.Context) (Catalog, error) {
	return p.readCatalog(ctx, &historyScope)
}

// RoomCatalog is [Purger.HistoryCatalog] for a room's delete.
func (p *Purger) RoomCatalog(ctx context.Context) (Catalog, error) {
	return p.readCatalog(ctx, &roomScope)
}

func (p *Purger) readCatalog(ctx context.Context, scope *scope) (Catalog, error) {
	catalog, err := p.knownTables(ctx, scope)
	if err = errors.Join(err, p.compare(ctx, scope.use)); err != nil {
		return Catalog{}, fmt.Errorf("read the catalog: %w", err)
	}
	if err := p.readReferences(ctx, &catalog); err != nil {
		return Catalog{}, fmt.Errorf("read the references: %w", err)
	}
	return catalog, nil
}

// compare fails with [ErrCatalog] if what matters to the uses differs from what Lethe
// knows, or if Synapse says that a program made for the schema that Lethe knows must
// not use this one. Reads do not ask, and fail by themselves if a column of theirs has
// gone.
func (p *Purger) compare(ctx context.Context, uses schema.Use) error {
	differences, err := census.Differences(ctx, p.db, uses, p.rules)
	if err != nil {
		return err
	}
	compat, err := census.Compat(ctx, p.db)
	if err != nil {
		return err
	}
	if compat > p.compat {
		differences = append(differences, fmt.Sprintf(
			"Synapse's compat_version is %d, and Lethe was tested up to %d; if you know that it fits, set schema.compat to %d",
			compat, p.compat, compat))
	}
	if len(differences) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrCatalog, strings.Join(differences, "\n"))
}

// CheckShutdown fails with an error that wraps [ErrCatalog] and names the table if a
// table in which shutdowns write is not as Lethe knows it.
func (p *Purger) CheckShutdown(ctx context.Context) error {
	_, err := p.shutdown.get(ctx, p)
	return err
}

func (p *Purger) checkShutdown(ctx context.Context) error {
	if err := p.compare(ctx, schema.UseShutdown); err != nil {
		return fmt.Errorf("compare the tables of shutdowns: %w", err)
	}
	return nil
}

func (p *Purger) knownTables(ctx context.Context, scope *scope) (Catalog, error) {
	// The referencing tables are checked too: a cascade deletes from them.
	ruled := p.rules.Deleting()
	names := slices.Concat(schema.UsedBy(scope.use), schema.Referencing(), ruled)
	slices.Sort(names)
	names = slices.Compact(names)
	// One query, so that all answers come from one snapshot. Names resolve by the
	// connection's search path, like those in the purge's statements.
	rows, err := p.db.Query(ctx, `
		WITH ours AS (
			SELECT name, to_regclass(quote_ident(name))::oid AS oid FROM pg_catalog.unnest($1::text[]) AS name
		)
		SELECT 'table', name, '' FROM ours WHERE oid IS NOT NULL
		UNION ALL
		SELECT 'index', name, ''
		FROM ours
		WHERE EXISTS (
			SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
			WHERE i.indrelid = ours.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = 'room_id')
		UNION ALL
		SELECT 'reference', c.conrelid::regclass::text, ours.name
		FROM pg_constraint c JOIN ours ON ours.oid = c.confrelid JOIN pg_class t ON t.oid = c.conrelid
		WHERE c.contype = 'f'
		  AND NOT (t.relname = ANY ($2) AND t.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = ours.oid))
		UNION ALL
		SELECT 'rule', r.rulename, ours.name
		FROM pg_rewrite r JOIN ours ON ours.oid = r.ev_class
		WHERE r.ev_enabled <> 'D'
		UNION ALL
		SELECT 'child table', i.inhrelid::regclass::text, ours.name
		FROM pg_inherits i JOIN ours ON ours.oid = i.inhparent
		UNION ALL
		SELECT 'row security', '(which hides rows from this role)', ours.name
		FROM ours WHERE row_security_active(ours.oid)
		ORDER BY 1, 2, 3`, names, slices.Concat(schema.Referencing(), ruled))
	if err != nil {
		return Catalog{}, err
	}
	catalog := Catalog{scope: scope, setWiseFrom: p.setWiseFrom}
	var unknown error
	var what, name, table string
	if _, err := pgx.ForEachRow(rows, []any{&what, &name, &table}, func() error {
		switch what {
		case "table":
			catalog.present = append(catalog.present, name)
		case "index":
			catalog.byRoom = append(catalog.byRoom, name)
		case "reference":
			unknown = errors.Join(unknown, fmt.Errorf("%w: the unknown table %s references %s", ErrCatalog, name, table))
		default:
			unknown = errors.Join(unknown, fmt.Errorf("%w: %s has the unknown %s %s", ErrCatalog, table, what, name))
		}
		return nil
	}); err != nil {
		return Catalog{}, err
	}
	catalog.rules = maps.Clone(p.rules)
	maps.DeleteFunc(catalog.rules, func(name string, _ schema.Rule) bool { return !catalog.has(name) })
	return catalog, unknown
}

// readReferences reads the references to the tables from which batches delete the
// rows of their events, and decides whether batches may and can check them set-wise.
func (p *Purger) readReferences(ctx context.Context, catalog *Catalog) error {
	may, err := MayDisableTriggers(ctx, p.db)
	if err != nil {
		return err
	}
	if catalog.setWise = may; !may {
		catalog.setRowWise("the role may not set session_replication_role")
	}
	rows, err := p.db.Query(ctx, `
		WITH ours AS (
			SELECT to_regclass(quote_ident(name))::oid AS oid FROM pg_catalog.unnest($1::text[]) AS name
		)
		SELECT c.conrelid::regclass::text, quote_ident(a.attname::text), c.confrelid::regclass::text, fa.attname,
		       c.confdeltype = 'c',
		       -- What a set-wise check does not cover: other actions than these
		       -- two, keys of several columns, and whatever a cascade would set
		       -- off in its turn.
		       c.confdeltype NOT IN ('a', 'r', 'c') OR pg_catalog.cardinality(c.conkey) > 1
		       OR c.confdeltype = 'c' AND (
		           EXISTS (SELECT FROM pg_constraint n WHERE n.contype = 'f' AND n.confrelid = c.conrelid)
		           OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.conrelid AND NOT t.tgisinternal AND t.tgenabled <> 'D'))
		FROM pg_constraint c
		JOIN ours ON ours.oid = c.confrelid
		JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
		JOIN pg_attribute fa ON fa.attrelid = c.confrelid AND fa.attnum = c.confkey[1]
		WHERE c.contype = 'f'
		ORDER BY 1, 2`, catalog.scope.byEvent)
	if err != nil {
		return err
	}
	var r Reference
	var table string
	var other bool
	_, err = pgx.ForEachRow(rows, []any{&r.Table, &r.Column, &table, &r.Key, &r.Cascade, &other}, func() error {
		if other || table != "events" || (r.Key != "event_id" && r.Key != "stream_ordering") {
			catalog.setRowWise(fmt.Sprintf("%s references %s in a way that only the server can check", r, table))
		}
		catalog.references = append(catalog.references, r)
		return nil
	})
	if err != nil {
		return err
	}
	var trigger *string
	if err := p.db.QueryRow(ctx, `
		SELECT min(t.tgname::text)
		FROM pg_trigger t JOIN pg_catalog.unnest($1::text[]) AS name ON t.tgrelid = to_regclass(quote_ident(name))::oid
		WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'`, catalog.scope.byEvent).Scan(&trigger); err != nil {
		return err
	}
	if trigger != nil {
		catalog.setRowWise(fmt.Sprintf("the trigger %s must run", *trigger))
	}
	return nil
}

// MayDisableTriggers reports whether the role may set session_replication_role.
// Superusers may, and since PostgreSQL 15 also roles with a grant.
func MayDisableTriggers(ctx context.Context, db *postgres.DB) (bool, error) {
	var version int
	var may bool
	if err := db.QueryRow(ctx, `
		SELECT current_setting('server_version_num')::int, current_setting('is_superuser') = 'on'`).
		Scan(&version, &may); err != nil || may || version < 15_00_00 {
		return may, err
	}
	err := db.QueryRow(ctx, `SELECT has_parameter_privilege('session_replication_role', 'SET')`).Scan(&may)
	return may, err
}
