package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
)

// A Month is how many events of a room were sent in a month of UTC.
type Month struct {
	Begin  time.Time
	Events int64
}

// RoomMonths counts a room's events by the months from the first to the last, both
// included, as the senders' clocks say. Months without events are left out. It returns nil
// if the room has so many events that it would take longer than 2 s.
func (q *Queries) RoomMonths(ctx context.Context, room string, first, last time.Time) ([]Month, error) {
	months := []Month{}
	if !postgres.Storable(room) {
		return months, nil
	}
	begin := func(t time.Time) time.Time { return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC) }
	known, err := q.inRoomTime(ctx, func(tx pgx.Tx) error {
		// Synapse has an index of (room_id, origin_server_ts), without outliers. The bounds
		// keep times away that are no times: any server can write any number.
		counted, err := postgres.Collect(ctx, tx, pgx.RowToStructByPos[Month], `
			SELECT date_trunc('month'::text, to_timestamp((origin_server_ts / 1000)::float8), 'UTC'::text) AS month, count(*)
			FROM events WHERE room_id = $1 AND NOT outlier AND origin_server_ts >= $2 AND origin_server_ts < $3
			GROUP BY month ORDER BY month`, room, begin(first.UTC()).UnixMilli(), begin(last.UTC()).AddDate(0, 1, 0).UnixMilli())
		months = append(months, counted...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count the room's events by month: %w", err)
	}
	if !known {
		return nil, nil
	}
	return months, nil
}
