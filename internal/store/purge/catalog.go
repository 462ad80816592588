package purge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/census"
	"lethe/internal/store/postgres"
)

// ErrCatalog is returned when the database has something that Lethe does not know
// and that a delete could harm, or lacks something that a delete needs.
var ErrCatalog = errors.New("the database is not as Lethe knows it")

// A scope is the set of tables that one kind of purge uses.
type scope struct {
	// tables are the tables that the purge deletes from, updates or reads. The value is
	// false for a table that some version of Synapse added or removed, so that it may
	// be absent.
	tables map[string]bool

	// byEvent are the tables from which a batch deletes the rows of its events. It
	// turns their triggers off where the role has the right.
	byEvent []string
}

// UsedTables returns the names of the tables that purges and deletes use, sorted.
func UsedTables() []string {
	tables := maps.Clone(historyTables)
	maps.Copy(tables, roomScope.tables)
	for _, name := range referencingTables {
		tables[name] = true
	}
	return slices.Sorted(maps.Keys(tables))
}

// RoomTables returns the names of the tables that a room's delete uses, sorted.
func RoomTables() []string { return slices.Sorted(maps.Keys(roomScope.tables)) }

// historyScope is the scope of a history purge.
var historyScope = scope{tables: historyTables, byEvent: historyByEvent}

var historyTables = map[string]bool{
	"event_auth":                         true,
	"event_backward_extremities":         true,
	"event_edges":                        true,
	"event_expiry":                       true,
	"event_failed_pull_attempts":         true,
	"event_forward_extremities":          true,
	"event_json":                         true,
	"event_labels":                       true,
	"event_push_actions":                 true,
	"event_push_actions_staging":         true,
	"event_push_summary":                 true,
	"event_push_summary_stream_ordering": true,
	"event_relations":                    true,
	"event_search":                       true,
	"event_to_state_groups":              true,
	"events":                             true,
	"federation_inbound_events_staging":  true,
	"partial_state_rooms":                true,
	"redactions":                         true,
	"rejections":                         true,
	"room_depth":                         true,
	"rooms":                              true,
	"sliding_sync_joined_rooms":          false,
	"state_events":                       true,
	"state_group_edges":                  true,
	"state_groups":                       true,
	"state_groups_pending_deletion":      false,
	"state_groups_persisting":            false,
	"state_groups_state":                 true,
	"sticky_events":                      false,
	"stream_ordering_to_exterm":          true,
	"threads":                            true,
}

// referencingTables are the tables to which Synapse gave a foreign key to a table of
// a scope, or to one of these. Lethe knows what becomes of their rows. A table that
// is not listed is not Synapse's, and Lethe must neither delete its rows nor break
// their references.
var referencingTables = []string{
	"current_state_events",
	"destination_rooms",
	"event_edges",
	"event_failed_pull_attempts",
	"event_forward_extremities",
	"event_txn_id",
	"event_txn_id_device_id",
	"local_current_membership",
	"msc4242_state_dag_edges",
	"msc4242_state_dag_forward_extremities",
	"partial_state_events",
	"partial_state_rooms",
	"partial_state_rooms_servers",
	"room_memberships",
	"sliding_sync_joined_rooms",
	"sliding_sync_joined_rooms_to_recalculate",
	"sliding_sync_membership_snapshots",
	"thread_subscriptions",
	"un_partial_stated_event_stream",
	"un_partial_stated_room_stream",
}

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

// knownTriggers are the triggers that Synapse makes.
var knownTriggers = []string{
	"check_event_stream_ordering",
	"check_partial_state_events",
	"delete_read_write_lock_parent_trigger",
	"upsert_read_write_lock_parent_trigger",
}

// A Catalog says which of the known tables a database has, and how deletes from them
// keep its references intact.
type Catalog struct {
	scope   *scope
	present []string

	// byRoom are the present tables with an index that begins with room_id.
	byRoom []string

	// rules are the operator's rules for tables that the database has.
	rules census.Rules

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

func (c Catalog) has(table string) bool { return slices.Contains(c.present, table) }

// DeletesByEvent reports whether batches delete a table's rows by their event_id.
func (c Catalog) DeletesByEvent(table string) bool {
	return slices.Contains(c.scope.byEvent, table) || c.rules[table] == census.DeleteByEvent
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
// wraps [ErrCatalog] and names the table when a table that the purge needs is
// missing, when an unknown table references or inherits from a table that the purge
// deletes from, or when such a table has an unknown enabled trigger or rule, or row
// security that hides rows.
func (p *Purger) HistoryCatalog(ctx context.Context) (Catalog, error) {
	return p.readCatalog(ctx, &historyScope)
}

// RoomCatalog is [Purger.HistoryCatalog] for a room's delete.
func (p *Purger) RoomCatalog(ctx context.Context) (Catalog, error) {
	return p.readCatalog(ctx, &roomScope)
}

// catalogVersion returns a text that changes whenever a [Catalog] changes, except
// for the rights of the role. Reading it is much faster than reading a catalog.
func (p *Purger) catalogVersion(ctx context.Context) (string, error) {
	var version string
	// A changed row gets a new xmin, and a new row a new oid.
	if err := p.db.QueryRow(ctx, `
		SELECT concat_ws(' ',
			(SELECT count(*) || '/' || sum(oid::bigint # xmin::text::bigint) FROM pg_constraint WHERE contype = 'f'),
			(SELECT count(*) || '/' || sum(oid::bigint # xmin::text::bigint) FROM pg_trigger WHERE NOT tgisinternal),
			(SELECT count(*) || '/' || sum(oid::bigint # xmin::text::bigint) FROM pg_rewrite),
			(SELECT count(*) || '/' || sum(inhrelid::bigint # inhparent::bigint) FROM pg_inherits),
			(SELECT count(*) || '/' || sum((oid::bigint # xmin::text::bigint) * (1 + relrowsecurity::int)) FROM pg_class
			 WHERE relkind IN ('r', 'p', 'i', 'f') AND relpersistence <> 't'))`).Scan(&version); err != nil {
		return "", fmt.Errorf("read the catalog's version: %w", err)
	}
	return version, nil
}

func (p *Purger) readCatalog(ctx context.Context, scope *scope) (Catalog, error) {
	catalog, err := p.knownTables(ctx, scope)
	if err == nil {
		err = errors.Join(p.checkColumns(ctx), p.checkCompat(ctx))
	}
	if err != nil {
		return Catalog{}, fmt.Errorf("read the catalog: %w", err)
	}
	if err := p.readReferences(ctx, &catalog); err != nil {
		return Catalog{}, fmt.Errorf("read the references: %w", err)
	}
	return catalog, nil
}

// checkCompat fails with [ErrCatalog] if Synapse says that a program made for the
// schema that Lethe knows must not use this one. Reads go on, and fail by themselves
// if a column of theirs has gone.
func (p *Purger) checkCompat(ctx context.Context) error {
	var exists bool
	if err := p.db.QueryRow(ctx, `SELECT to_regclass('schema_compat_version') IS NOT NULL`).Scan(&exists); err != nil || !exists {
		return err
	}
	var compat int
	if err := p.db.QueryRow(ctx, `SELECT coalesce(max(compat_version), 0) FROM schema_compat_version`).Scan(&compat); err != nil {
		return err
	}
	if compat > p.compat {
		return fmt.Errorf("%w: Synapse's compat_version is %d, and Lethe was tested up to %d; if you know that it fits, set schema.compat to %d",
			ErrCatalog, compat, p.compat, compat)
	}
	return nil
}

// checkColumns fails with [ErrCatalog] if a table that Lethe does not know, and for
// which there is no rule, has a column that seems to name a room, an event or a state
// group: the purge would leave its rows.
func (p *Purger) checkColumns(ctx context.Context) error {
	unknown, err := census.Unknown(ctx, p.db, p.rules)
	for _, column := range unknown {
		err = errors.Join(err, fmt.Errorf("%w: it does not know the column %s; say in the setting tables what to do with the table", ErrCatalog, column))
	}
	return err
}

func (p *Purger) knownTables(ctx context.Context, scope *scope) (Catalog, error) {
	// The referencing tables are checked too: a cascade deletes from them.
	names := slices.Sorted(maps.Keys(scope.tables))
	for _, name := range referencingTables {
		if _, known := scope.tables[name]; !known {
			names = append(names, name)
		}
	}
	ruled := slices.Concat(p.rules.With(census.DeleteByRoom), p.rules.With(census.DeleteByEvent))
	names = append(names, ruled...)
	// One query, so that all answers come from one snapshot. Names resolve by the
	// connection's search path, like those in the purge's statements.
	rows, err := p.db.Query(ctx, `
		WITH ours AS (
			SELECT name, to_regclass(quote_ident(name)) AS oid FROM unnest($1::text[]) AS name
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
		SELECT 'trigger', t.tgname, ours.name
		FROM pg_trigger t JOIN ours ON ours.oid = t.tgrelid
		WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND NOT t.tgname = ANY ($3)
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
		ORDER BY 1, 2, 3`, names, slices.Concat(referencingTables, ruled), knownTriggers)
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
	for _, name := range names {
		if (scope.tables[name] || slices.Contains(ruled, name) && !census.MayBeAbsent(name)) && !catalog.has(name) {
			unknown = errors.Join(unknown, fmt.Errorf("%w: it has no table %s", ErrCatalog, name))
		}
	}
	catalog.rules = maps.Clone(p.rules)
	maps.DeleteFunc(catalog.rules, func(name string, _ census.Rule) bool { return !catalog.has(name) })
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
			SELECT to_regclass(quote_ident(name)) AS oid FROM unnest($1::text[]) AS name
		)
		SELECT c.conrelid::regclass::text, quote_ident(a.attname), c.confrelid::regclass::text, fa.attname,
		       c.confdeltype = 'c',
		       -- What a set-wise check does not cover: other actions than these
		       -- two, keys of several columns, and whatever a cascade would set
		       -- off in its turn.
		       c.confdeltype NOT IN ('a', 'r', 'c') OR cardinality(c.conkey) > 1
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
		SELECT min(t.tgname)
		FROM pg_trigger t JOIN unnest($1::text[]) AS name ON t.tgrelid = to_regclass(quote_ident(name))
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
