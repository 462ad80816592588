package plainsql

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// WithoutTriggers is a statement after which a transaction checks no references.
const WithoutTriggers = `SET LOCAL session_replication_role = replica`

// Purge purges the history of room $1 up to depth $2, local events included. It
// is what an expert in the schema would write: set-based, in one transaction. It
// leaves the same rows as Lethe's purge.
var Purge = []string{
	`CREATE TEMPORARY TABLE gone (
		event_id        text    NOT NULL PRIMARY KEY,
		stream_ordering bigint,
		deletable       boolean NOT NULL
	) ON COMMIT DROP`,
	`INSERT INTO gone
	SELECT e.event_id, e.stream_ordering, s.event_id IS NULL
	FROM events e LEFT JOIN state_events s ON s.event_id = e.event_id
	WHERE e.room_id = $1 AND e.topological_ordering < $2 AND (NOT e.outlier OR s.event_id IS NULL)`,
	`ANALYZE gone`,

	// The new end of the room's history.
	`CREATE TEMPORARY TABLE ends ON COMMIT DROP AS
	SELECT DISTINCT g.prev_event_id AS event_id
	FROM event_edges g JOIN events e ON e.event_id = g.event_id
	WHERE NOT g.is_state AND NOT e.outlier AND NOT EXISTS (SELECT FROM gone n WHERE n.event_id = g.event_id)
	  AND g.prev_event_id IN (SELECT event_id FROM gone)`,
	`DELETE FROM event_backward_extremities x
	WHERE x.room_id = $1 AND NOT EXISTS (
		SELECT FROM event_edges g JOIN events e ON e.event_id = g.event_id
		WHERE g.prev_event_id = x.event_id AND NOT g.is_state AND NOT e.outlier
		  AND NOT EXISTS (SELECT FROM gone n WHERE n.event_id = g.event_id))`,
	`INSERT INTO event_backward_extremities (event_id, room_id) SELECT event_id, $1 FROM ends ON CONFLICT DO NOTHING`,

	// Unread counts, before the events that they count are deleted.
	`UPDATE event_push_summary y
	SET notif_count = greatest(y.notif_count - c.notif, 0), unread_count = greatest(coalesce(y.unread_count, 0) - c.unread, 0)
	FROM (
		SELECT y.user_id, y.thread_id,
		       count(*) FILTER (WHERE a.notif = 1) AS notif, count(*) FILTER (WHERE a.unread = 1) AS unread
		FROM event_push_actions a
		JOIN gone g ON g.event_id = a.event_id AND g.deletable
		JOIN event_push_summary y ON y.room_id = a.room_id AND y.user_id = a.user_id AND y.thread_id = a.thread_id
		WHERE a.room_id = $1 AND a.stream_ordering <= (SELECT stream_ordering FROM event_push_summary_stream_ordering)
		  AND (y.last_receipt_stream_ordering IS NULL OR a.stream_ordering > y.last_receipt_stream_ordering)
		GROUP BY y.user_id, y.thread_id
	) c
	WHERE y.room_id = $1 AND y.user_id = c.user_id AND y.thread_id = c.thread_id`,

	// The events.
	`CREATE TEMPORARY TABLE lost (state_group bigint NOT NULL) ON COMMIT DROP`,
	`WITH d AS (
		DELETE FROM event_to_state_groups t USING gone g WHERE t.event_id = g.event_id RETURNING t.state_group
	)
	INSERT INTO lost SELECT DISTINCT state_group FROM d`,
	`DELETE FROM event_edges t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM events t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM event_json t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM event_auth t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM event_forward_extremities t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM event_relations t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM event_search t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM rejections t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM redactions t USING gone g WHERE g.deletable AND t.event_id = g.event_id`,
	`DELETE FROM event_push_actions t USING gone g WHERE g.deletable AND t.room_id = $1 AND t.event_id = g.event_id`,
	`UPDATE events e SET outlier = true FROM gone g WHERE NOT g.deletable AND e.event_id = g.event_id`,
	`UPDATE room_depth SET min_depth = coalesce((
		SELECT min(e.depth)
		FROM event_backward_extremities x
		JOIN event_edges g ON g.prev_event_id = x.event_id
		JOIN events e ON e.event_id = g.event_id
		WHERE x.room_id = $1), 0)
	WHERE room_id = $1`,

	// The state groups that no event uses any more, and the state groups that were
	// only kept by these.
	`CREATE TEMPORARY TABLE unused (state_group bigint NOT NULL PRIMARY KEY) ON COMMIT DROP`,
	`WITH RECURSIVE reached (state_group) AS (
		SELECT l.state_group FROM lost l
		WHERE NOT EXISTS (SELECT FROM event_to_state_groups u WHERE u.state_group = l.state_group)
		UNION
		SELECT n.state_group
		FROM reached r CROSS JOIN LATERAL (
			SELECT e.prev_state_group FROM state_group_edges e WHERE e.state_group = r.state_group
			UNION ALL
			SELECT e.state_group FROM state_group_edges e WHERE e.prev_state_group = r.state_group
		) AS n (state_group)
		WHERE NOT EXISTS (SELECT FROM event_to_state_groups u WHERE u.state_group = n.state_group)
	)
	INSERT INTO unused SELECT r.state_group FROM reached r JOIN state_groups g ON g.id = r.state_group AND g.room_id = $1`,
	`ANALYZE unused`,

	// A remaining state group that was stored as a difference to a deleted one is
	// stored in full.
	`CREATE TEMPORARY TABLE full_state (state_group bigint, type text, state_key text, event_id text) ON COMMIT DROP`,
	`WITH RECURSIVE chain (root, state_group) AS (
		SELECT e.state_group, e.state_group
		FROM state_group_edges e JOIN unused d ON d.state_group = e.prev_state_group
		WHERE NOT EXISTS (SELECT FROM unused n WHERE n.state_group = e.state_group)
		UNION
		SELECT chain.root, e.prev_state_group FROM chain JOIN state_group_edges e ON e.state_group = chain.state_group
	)
	INSERT INTO full_state
	SELECT DISTINCT ON (chain.root, t.type, t.state_key) chain.root, t.type, t.state_key, t.event_id
	FROM chain JOIN state_groups_state t ON t.state_group = chain.state_group
	ORDER BY chain.root, t.type, t.state_key, chain.state_group DESC`,
	`DELETE FROM state_groups_state WHERE state_group IN (SELECT state_group FROM full_state)`,
	`INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
	SELECT state_group, $1, type, state_key, event_id FROM full_state`,
	`DELETE FROM state_group_edges
	WHERE state_group IN (SELECT state_group FROM unused) OR prev_state_group IN (SELECT state_group FROM unused)`,
	`DELETE FROM state_groups_state t USING unused d WHERE t.state_group = d.state_group`,
	`DELETE FROM state_groups t USING unused d WHERE t.id = d.state_group`,
}

// Cascades returns a statement for each foreign key that would delete rows together
// with their event.
func Cascades(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	rows, err := conn.Query(ctx, `
		SELECT format('DELETE FROM %s t USING gone g WHERE g.deletable AND t.%I = g.%I', c.conrelid::regclass, a.attname, k.attname)
		FROM pg_constraint c
		JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
		JOIN pg_attribute k ON k.attrelid = c.confrelid AND k.attnum = c.confkey[1]
		WHERE c.contype = 'f' AND c.confdeltype = 'c' AND c.confrelid = 'events'::regclass
		ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
