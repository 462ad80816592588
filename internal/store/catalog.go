package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrCatalog is returned when the database holds something that Lethe does not
// know and that a delete could harm, or lacks something that it needs.
var ErrCatalog = errors.New("the database is not as Lethe knows it")

// historyTables are the tables that a history purge deletes from, updates or
// reads. Those that are false came with some version of Synapse and may be
// absent.
var historyTables = map[string]bool{
	"event_auth":                         true,
	"event_backward_extremities":         true,
	"event_edges":                        true,
	"event_forward_extremities":          true,
	"event_json":                         true,
	"event_push_actions":                 true,
	"event_push_summary":                 true,
	"event_push_summary_stream_ordering": true,
	"event_relations":                    true,
	"event_search":                       true,
	"event_to_state_groups":              true,
	"events":                             true,
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
}

// referencingTables are the tables that Synapse gave a foreign key to one of
// historyTables. What becomes of their rows is known; a table that is not here
// is somebody else's, and its rows are not ours to delete or to break.
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
	"room_memberships",
	"sliding_sync_joined_rooms",
	"sliding_sync_joined_rooms_to_recalculate",
	"sliding_sync_membership_snapshots",
	"thread_subscriptions",
	"un_partial_stated_event_stream",
	"un_partial_stated_room_stream",
}

// knownTriggers are the triggers that Synapse made.
var knownTriggers = []string{
	"check_event_stream_ordering",
	"check_partial_state_events",
	"delete_read_write_lock_parent_trigger",
	"upsert_read_write_lock_parent_trigger",
}

// A Catalog says which of the tables that Lethe knows a database has.
type Catalog struct {
	present []string
}

func (c Catalog) has(table string) bool { return slices.Contains(c.present, table) }

// Catalog reads what tables there are. It fails with an error that wraps
// [ErrCatalog] and names the table when a table that a history purge needs is
// missing, when a table that Lethe does not know references one that it deletes
// from, or when one of these has an enabled trigger or a rule that Lethe does
// not know.
func (s *Store) Catalog(ctx context.Context) (Catalog, error) {
	names := make([]string, 0, len(historyTables))
	for name := range historyTables {
		names = append(names, name)
	}
	slices.Sort(names)

	// One query, so that one snapshot answers all questions. Names resolve by
	// the connection's search path, as those in the purge's statements do.
	rows, err := s.pool.Query(ctx, `
		WITH ours AS (
			SELECT name, to_regclass(quote_ident(name)) AS oid FROM unnest($1::text[]) AS name
		)
		SELECT 'table', name, '' FROM ours WHERE oid IS NOT NULL
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
		ORDER BY 1, 2, 3`, names, referencingTables, knownTriggers)
	if err != nil {
		return Catalog{}, fmt.Errorf("read the catalog: %w", err)
	}
	defer rows.Close()
	var catalog Catalog
	var unknown error
	for rows.Next() {
		var what, name, table string
		if err := rows.Scan(&what, &name, &table); err != nil {
			return Catalog{}, fmt.Errorf("read the catalog: %w", err)
		}
		switch what {
		case "table":
			catalog.present = append(catalog.present, name)
		case "reference":
			unknown = errors.Join(unknown, fmt.Errorf("%w: the unknown table %s references %s", ErrCatalog, name, table))
		default:
			unknown = errors.Join(unknown, fmt.Errorf("%w: %s has the unknown %s %s", ErrCatalog, table, what, name))
		}
	}
	if err := rows.Err(); err != nil {
		return Catalog{}, fmt.Errorf("read the catalog: %w", err)
	}
	for _, name := range names {
		if historyTables[name] && !catalog.has(name) {
			unknown = errors.Join(unknown, fmt.Errorf("%w: it has no table %s", ErrCatalog, name))
		}
	}
	return catalog, unknown
}
