package messages

import (
	"context"

	"lethe/internal/matrix"
	"lethe/internal/store"
)

// An access is how a reader may read a room.
type access struct {
	// peeker says that anybody may, and the reader is nobody special.
	peeker bool

	// left is where the reader's leave event stands, nil for one who is in.
	left *matrix.Token
}

// accessTo decides whether the reader may read the room, and how. If not, the
// error is [ErrForbidden].
func accessTo(ctx context.Context, snapshot *store.Snapshot, room string, reader Reader) (access, error) {
	panic("owned by another piece")
}
