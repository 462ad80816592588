package admin

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A RoomSize is an estimate of the space that a room needs in the database.
type RoomSize struct {
	ID    string
	Bytes int64
}

// sizedTables are the tables that grow with the history of rooms. Synapse looks at the
// same ones.
var sizedTables = []string{
	"event_json", "events", "event_search", "event_edges", "event_push_actions", "stream_ordering_to_exterm", "state_groups_state",
}

// LargestRooms returns up to limit rooms, the largest first. It reads no row of a room: it
// multiplies the size of each table by the room's share of it, which PostgreSQL has
// sampled. So only rooms are known that were common in the sample, and a table that has
// not been analyzed counts for none.
func (q *Queries) LargestRooms(ctx context.Context, limit int) ([]RoomSize, error) {
	// Rooms of the same size are in the order in which they are found. The values of
	// pg_stats have no fixed type, so they are read as texts.
	rooms, err := postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[RoomSize], `
		SELECT v.room_id, sum(trunc(v.share * pg_total_relation_size(t.oid)::numeric))::bigint AS size
		FROM (SELECT to_regclass(quote_ident(name)) AS oid, place FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS u (name, place)) t
		JOIN pg_class c ON c.oid = t.oid::oid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = 'room_id' AND NOT s.inherited
		CROSS JOIN unnest(s.most_common_vals::text::text[], s.most_common_freqs::text::numeric[])
			WITH ORDINALITY AS v (room_id, share, rank)
		WHERE v.room_id IS NOT NULL
		GROUP BY v.room_id
		ORDER BY size DESC, min(t.place * 1000000 + v.rank)
		LIMIT $2`, sizedTables, limit)
	if err != nil {
		return nil, fmt.Errorf("estimate the sizes of rooms: %w", err)
	}
	return rooms, nil
}
