package checkup

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// EventStream returns the last number that the sequence of events has given out, and the
// highest that an event has. known is false if the database has no such sequence or table,
// or the role may not read them.
func EventStream(ctx context.Context, db *postgres.DB) (last, highest int64, known bool, err error) {
	const operation = "compare the sequence of events with the table"
	if err := db.ReadRow(ctx, []any{&known}, `
		SELECT coalesce(has_sequence_privilege(to_regclass('events_stream_seq')::oid, 'SELECT, USAGE')
		            AND has_column_privilege(to_regclass('events')::oid, 'stream_ordering', 'SELECT'), false)`); err != nil || !known {
		if err != nil {
			err = fmt.Errorf("%s: %w", operation, err)
		}
		return 0, 0, false, err
	}
	// A sequence that was never used has no last value.
	if err := db.ReadRow(ctx, []any{&last, &highest}, `
		SELECT coalesce(pg_sequence_last_value(to_regclass('events_stream_seq')), 0), coalesce((SELECT max(stream_ordering) FROM events), 0)`,
	); err != nil {
		return 0, 0, false, fmt.Errorf("%s: %w", operation, err)
	}
	return last, highest, true, nil
}
