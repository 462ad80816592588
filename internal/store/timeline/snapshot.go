package timeline

import (
	"context"
	"encoding/json"

	"lethe/internal/store/postgres"
)

// A Snapshot reads the database as it was at one moment, whatever is committed
// meanwhile. It serves one goroutine, inside the function that it was given to.
type Snapshot struct{ tx *postgres.LazyTx }

// Read calls read with a snapshot that is taken at its first query and ended when
// read returns, as [postgres.DB.Snapshot] does.
func Read(ctx context.Context, db *postgres.DB, read func(context.Context, *Snapshot) error) error {
	return db.Snapshot(ctx, func(ctx context.Context, tx *postgres.LazyTx) error {
		return read(ctx, &Snapshot{tx: tx})
	})
}

// An Event is an event as a page of its room needs it.
type Event struct {
	ID     string
	Type   string
	Sender string

	// StateKey is nil unless it is a state event.
	StateKey *string

	// Topological is its depth. Stream is its order of arrival, negative if it was
	// backfilled.
	Topological int64
	Stream      int64

	// OriginTS is the time at which it was sent, in ms, as its sender says.
	OriginTS int64

	// Outlier says that it is not part of the timeline.
	Outlier bool

	// StateGroup is the state after the event, nil if it is unknown.
	StateGroup *int64

	// RoomVersion is the version of its room, nil if it is unknown.
	RoomVersion *string

	// JSON is the event as other servers get it. InternalMetadata is what the
	// homeserver keeps about it. Neither was validated.
	JSON             json.RawMessage
	InternalMetadata json.RawMessage

	// RedactedBy is the id of the event that redacts it, nil unless one does.
	// Redaction is that event's JSON and RedactionMetadata its internal metadata, nil
	// if it is gone.
	RedactedBy        *string
	Redaction         json.RawMessage
	RedactionMetadata json.RawMessage

	// Related says how other events relate to it. It is zero unless the event was
	// read by [Snapshot.Pages] or [Snapshot.EventsOf].
	Related Related
}
