package storetest

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A Positioned is a row of events with the columns that the search for a moment
// uses.
type Positioned struct {
	Room        string
	Topological int64
	Stream      int64
	Received    *int64
	Outlier     bool
	Rejected    bool
}

// ReplaceEvents replaces all events of the database.
func ReplaceEvents(t require.TestingT, ctx context.Context, conn *pgx.Conn, events []Positioned) {
	batch := &pgx.Batch{}
	batch.Queue(`DELETE FROM rejections`)
	batch.Queue(`DELETE FROM events`)
	for i, e := range events {
		// Synapse has two ways to store a rejection. Newer versions use the second.
		var reason *string
		if e.Rejected && i%2 == 0 {
			batch.Queue(`INSERT INTO rejections (event_id, reason, last_check) VALUES ($1, 'auth', '')`, fmt.Sprint("$", e.Stream))
		} else if e.Rejected {
			reason = new("auth")
		}
		batch.Queue(`
			INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier,
				received_ts, rejection_reason)
			VALUES ($1, $2, 't', $3, $3, $4, true, $5, $6, $7)`,
			fmt.Sprint("$", e.Stream), e.Room, e.Topological, e.Stream, e.Outlier, e.Received, reason)
	}
	require.NoError(t, conn.SendBatch(ctx, batch).Close())
}
