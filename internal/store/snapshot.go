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

// Snapshot calls read with a picture of the database that is taken at its first
// query and let go when read returns. An error of read is returned as it is.
func (s *Store) Snapshot(ctx context.Context, read func(context.Context, *Snapshot) error) error {
	tx, err := s.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
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
	// Redaction is that event as other servers get it, nil if it is gone.
	RedactedBy *string
	Redaction  json.RawMessage
}
