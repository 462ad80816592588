package checkup

import (
	"context"
	"fmt"
	"strings"

	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"

	"github.com/jackc/pgx/v5"
)

// purgeIndexes are the columns by which a purge finds rows, besides the columns that
// reference events.
var purgeIndexes = []struct {
	table   string
	columns []string
}{
	{"event_auth", []string{"event_id"}},
	{"event_backward_extremities", []string{"room_id"}},
	{"event_edges", []string{"event_id"}},
	{"event_edges", []string{"prev_event_id"}},
	{"event_expiry", []string{"event_id"}},
	{"event_failed_pull_attempts", []string{"room_id"}},
	{"event_forward_extremities", []string{"event_id"}},
	{"event_forward_extremities", []string{"room_id"}},
	{"event_json", []string{"event_id"}},
	{"event_labels", []string{"event_id"}},
	{"event_push_actions", []string{"room_id", "event_id"}},
	{"event_push_actions_staging", []string{"event_id"}},
	{"event_relations", []string{"event_id"}},
	{"event_relations", []string{"relates_to_id"}},
	{"event_search", []string{"event_id"}},
	{"event_to_state_groups", []string{"event_id"}},
	{"event_to_state_groups", []string{"state_group"}},
	{"events", []string{"event_id"}},
	{"events", []string{"room_id", "stream_ordering"}},
	{"events", []string{"room_id", "topological_ordering", "stream_ordering"}},
	{"federation_inbound_events_staging", []string{"room_id"}},
	{"redactions", []string{"event_id"}},
	{"redactions", []string{"redacts"}},
	{"rejections", []string{"event_id"}},
	{"state_events", []string{"event_id"}},
	{"state_group_edges", []string{"prev_state_group"}},
	{"state_group_edges", []string{"state_group"}},
	{"state_groups_state", []string{"state_group"}},
	{"sticky_events", []string{"event_stream_ordering"}},
	{"stream_ordering_to_exterm", []string{"room_id"}},
	{"threads", []string{"room_id", "thread_id"}},
	{"threads", []string{"room_id", "topological_ordering"}},
}

// smallTable is the size in bytes up to which a table that references events needs
// no index: Synapse has left some, mostly empty, tables without one.
const smallTable = 1 << 20

// LackingIndexes returns a CREATE INDEX for each index that a purge needs and the
// database does not have. Without it each batch reads a whole table.
func LackingIndexes(ctx context.Context, db *postgres.DB, catalog purge.Catalog) (statements []string, err error) {
	var tables, columns []string
	var large []int64 // the sizes from which the index is needed
	add := func(table string, from int64, names ...string) {
		tables, columns, large = append(tables, table), append(columns, strings.Join(names, ", ")), append(large, from)
	}
	for _, index := range purgeIndexes {
		add(index.table, 0, index.columns...)
	}
	for _, r := range catalog.References() {
		if !catalog.DeletesByEvent(r.Table) {
			add(r.Table, smallTable, r.Column)
		}
	}
	// An index serves if it begins with these columns and covers all rows.
	statements, err = postgres.Collect(ctx, db, pgx.RowTo[string], `
		SELECT pg_catalog.format('CREATE INDEX CONCURRENTLY ON %s (%s);', w.name, w.columns)
		FROM unnest($1::text[], $2::text[], $3::bigint[]) AS w (name, columns, large)
		WHERE pg_relation_size(to_regclass(w.name)) >= w.large AND NOT EXISTS (
			SELECT FROM pg_index i
			WHERE i.indrelid = to_regclass(w.name)::oid AND i.indisvalid AND i.indpred IS NULL
			  AND w.columns || ',' = left((
				SELECT string_agg(quote_ident(a.attname::text), ', ' ORDER BY k.place) || ','
				FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
				JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
				WHERE k.place <= i.indnkeyatts), length(w.columns) + 1))
		ORDER BY 1`, tables, columns, large)
	if err != nil {
		return nil, fmt.Errorf("look for indexes: %w", err)
	}
	return statements, nil
}
