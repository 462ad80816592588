package messages

import (
	"context"

	"lethe/internal/store"
)

// A shown event is one that its reader gets to see.
type shown struct {
	store.TimelineEvent

	// membership is the reader's membership of the room at the event, "" if it is
	// not to be told.
	membership string

	// erased says that the sender was erased, and the event is shown redacted.
	erased bool
}

// visible returns those of the events that the reader may see, in their order.
func (m *Messages) visible(ctx context.Context, snapshot *store.Snapshot, room string, reader Reader, access access,
	events []store.TimelineEvent,
) ([]shown, error) {
	panic("owned by another piece")
}
