package store

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A Snapshot reads the database as it was at one moment, whatever is committed
// meanwhile. It serves one goroutine, inside the function that it was given to.
type Snapshot struct{ tx pgx.Tx }

// beginSnapshot is one round trip. What is read is a small part of large tables, by
// index, again and again: to plan it anew each time takes longer than to read it, and
// compiling it never pays. The times are bounds for what has no other: a statement
// that a hostile filter makes slow, and a reader that was stopped, whose picture keeps
// the server from vacuuming.
const beginSnapshot = `
	BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
	SET LOCAL plan_cache_mode = force_generic_plan;
	SET LOCAL enable_seqscan = off;
	SET LOCAL jit = off;
	SET LOCAL random_page_cost = 1.1;
	SET LOCAL statement_timeout = '20s';
	SET LOCAL idle_in_transaction_session_timeout = '60s'`

// Snapshot calls read with a picture of the database that is taken at its first
// query and let go when read returns. An error of read is returned as it is.
func (s *Store) Snapshot(ctx context.Context, read func(context.Context, *Snapshot) error) error {
	var tx pgx.Tx
	err := patiently(ctx, func() (err error) {
		tx, err = s.pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: beginSnapshot})
		return err
	})
	if err != nil {
		return fmt.Errorf("begin to read: %w", err)
	}
	// Nothing was written, so an end that fails loses nothing.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	return read(ctx, &Snapshot{tx: tx})
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
}
