package timeline

import (
	"context"
	"encoding/json"
	"fmt"

	"lethe/internal/store/postgres"
	"lethe/internal/store/rowcache"
)

// A Snapshot reads the database as it was at one moment. It serves one goroutine,
// inside the function that it was passed to.
type Snapshot struct {
	tx     *postgres.LazyTx
	bans   bans
	cache  *Cache
	moment rowcache.Moment // zero before it is known
}

// Read calls read with a snapshot. The snapshot is taken at the first query and ends
// when read returns, as in [postgres.DB.Snapshot].
func Read(ctx context.Context, db *postgres.DB, read func(context.Context, *Snapshot) error) error {
	return ReadWith(ctx, db, nil, read)
}

// ReadWith is [Read] with a cache, which must be used with this database only. It may be
// nil.
func ReadWith(ctx context.Context, db *postgres.DB, cache *Cache, read func(context.Context, *Snapshot) error) error {
	has, err := hasBans(ctx, db)
	if err != nil {
		return fmt.Errorf("read the timeline: %w", err)
	}
	return db.Snapshot(ctx, func(ctx context.Context, tx *postgres.LazyTx) error {
		return read(ctx, &Snapshot{tx: tx, bans: has, cache: cache})
	})
}

// An Event is an event with everything that a page of its room needs.
type Event struct {
	ID     string
	Type   string
	Sender string

	// StateKey is nil unless it is a state event.
	StateKey *string

	// Topological is the event's depth. Stream is its order of arrival, negative if it
	// was backfilled.
	Topological int64
	Stream      int64

	// OriginTS is the time at which the event was sent, in Unix milliseconds, by its
	// sender's clock.
	OriginTS int64

	// Outlier says that the event is not part of the timeline.
	Outlier bool

	// StateGroup is the state after the event, nil if it is unknown.
	StateGroup *int64

	// RoomVersion is the version of the event's room, nil if it is unknown.
	RoomVersion *string

	// JSON is the event in the form that other servers get. InternalMetadata is what
	// the homeserver stores about it. Neither was validated.
	JSON             json.RawMessage
	InternalMetadata json.RawMessage

	// Prepared is what [CacheOptions.Prepare] has made of the JSON and the metadata, nil
	// without a cache. Several readers may have it at the same time.
	Prepared any

	// RedactedBy is the id of the event's redaction, nil if it has none. Redaction and
	// RedactionMetadata are the redaction's JSON and internal metadata, nil if it is
	// gone.
	RedactedBy        *string
	Redaction         json.RawMessage
	RedactionMetadata json.RawMessage

	// RedactionRedacted says that the redaction has been redacted itself. The event is
	// redacted nevertheless.
	RedactionRedacted bool

	// Related says how other events relate to the event. It is set by [Snapshot.Pages]
	// and [Snapshot.EventsOf] only.
	Related Related
}
