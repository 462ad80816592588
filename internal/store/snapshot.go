package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Snapshot reads the database as it was at one moment, whatever is committed
// meanwhile. It serves one goroutine, inside the function that it was given to.
type Snapshot struct{ tx *picture }

// What is read is a small part of large tables, by index, again and again: to plan it
// anew each time takes longer than to read it, and compiling it never pays. The times
// are bounds for what has no other: a statement that a hostile filter makes slow, and
// a reader that was stopped, whose picture keeps the server from vacuuming.
//
// One statement sets all of it: several would each cost as much.
const (
	beginPicture = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`
	setPicture   = `
		SELECT set_config('plan_cache_mode', 'force_generic_plan', true),
		       set_config('enable_seqscan', 'off', true),
		       set_config('jit', 'off', true),
		       set_config('random_page_cost', '1.1', true),
		       set_config('statement_timeout', '20s', true),
		       set_config('idle_in_transaction_session_timeout', '60s', true)`
)

// endTime bounds the end of a picture. A server that does not answer until then has
// its connection closed.
const endTime = 5 * time.Second

// Snapshot calls read with a picture of the database that is taken at its first
// query and let go when read returns. An error of read is returned as it is. If the
// first query finds that the connection is dead, as after a restart of the server, read
// is called again.
func (s *Store) Snapshot(ctx context.Context, read func(context.Context, *Snapshot) error) error {
	var failed error
	err := patiently(ctx, func() error {
		conn, err := s.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release() // which closes a connection that has not ended its transaction
		p := &picture{conn: conn}
		failed = read(ctx, &Snapshot{tx: p})
		if p.asked > 0 {
			// Nothing was written, so an end that fails loses nothing.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
			defer cancel()
			_, _ = conn.Conn().PgConn().Exec(ctx, `ROLLBACK`).ReadAll()
		}
		if p.asked == 1 && Unreachable(failed) {
			return failed
		}
		return nil
	})
	switch {
	case failed != nil:
		return failed
	case err != nil:
		return fmt.Errorf("begin to read: %w", err)
	}
	return nil
}

// A picture is a transaction that begins with its first query, in one round trip with
// that.
type picture struct {
	conn  *pgxpool.Conn
	asked int // how often, with the first
}

// SendBatch is that of a transaction. The results are closed without reading them
// one by one: the batch's own functions do that.
func (p *picture) SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults {
	if p.asked++; p.asked == 1 {
		var first pgx.Batch
		first.Queue(beginPicture)
		first.Queue(setPicture)
		batch.QueuedQueries = append(first.QueuedQueries, batch.QueuedQueries...)
	}
	return p.conn.SendBatch(ctx, batch)
}

// QueryRow implements [querier]. The query runs when the row is scanned.
func (p *picture) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return rowOfPicture(func(dest ...any) error {
		var batch pgx.Batch
		batch.Queue(sql, args...).QueryRow(func(row pgx.Row) error { return row.Scan(dest...) })
		return p.SendBatch(ctx, &batch).Close()
	})
}

// rowOfPicture implements [pgx.Row].
type rowOfPicture func(dest ...any) error

func (scan rowOfPicture) Scan(dest ...any) error { return scan(dest...) }

// Query implements [querier].
func (p *picture) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if p.asked == 0 {
		if err := p.SendBatch(ctx, &pgx.Batch{}).Close(); err != nil {
			return nil, err
		}
		p.asked = 1 // in one round trip more
	}
	p.asked++
	return p.conn.Query(ctx, sql, args...)
}

// A TimelineEvent is an event as a page of its room needs it.
type TimelineEvent struct {
	ID     string
	Type   string
	Sender string

	// StateKey is nil if it is no state event.
	StateKey *string

	// Topological and Stream are its place: its depth, and its order of arrival,
	// negative for what was backfilled.
	Topological int64
	Stream      int64

	// OriginTS is when its sender says that it was sent, in ms.
	OriginTS int64

	// Outlier says that it is outside the timeline.
	Outlier bool

	// StateGroup is the state at the event, the event included; nil if nobody
	// knows.
	StateGroup *int64

	// RoomVersion is the version of its room, nil if nobody knows.
	RoomVersion *string

	// JSON is the event as other servers get it, InternalMetadata what its
	// homeserver keeps about it. Neither has been checked.
	JSON             json.RawMessage
	InternalMetadata json.RawMessage

	// RedactedBy is the id of the event that redacts it, nil if none does.
	// Redaction is that event as other servers get it, and RedactionMetadata what
	// its homeserver keeps about it; nil if it is gone.
	RedactedBy        *string
	Redaction         json.RawMessage
	RedactionMetadata json.RawMessage

	// Related says how others relate to it. Only pages, and what [Snapshot.EventsOf]
	// reads, know it: else it is zero.
	Related Related
}
