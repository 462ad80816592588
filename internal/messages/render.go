package messages

import (
	"context"
	"encoding/json"

	"lethe/internal/store"
)

// render makes of the events what clients get, bundled aggregations included.
func render(ctx context.Context, snapshot *store.Snapshot, request Request, events []shown) ([]json.RawMessage, error) {
	panic("owned by another piece")
}

// lazyMembers returns the member events of the senders of the chunk, of the
// state at its first event; nil if there are none.
func lazyMembers(ctx context.Context, snapshot *store.Snapshot, request Request, chunk []shown) ([]json.RawMessage, error) {
	panic("owned by another piece")
}
