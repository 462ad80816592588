package messages

import (
	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// An access says how a reader may read a room.
type access struct {
	// peeker says that the reader is no member, and the room is world-readable.
	peeker bool

	// left is the position of the leave event of a reader who has left. It is nil for
	// other readers.
	left *matrix.Token
}

// accessOf decides how a reader may read the room. The error is [ErrForbidden] if the
// reader may not.
func accessOf(standing timeline.Standing) (access, error) {
	switch {
	case standing.Membership == "join":
		return access{}, nil
	// Without the leave event it is not known how far the reader may read.
	case standing.Membership == "leave" && standing.Remembered && standing.At != nil:
		return access{left: standing.At}, nil
	case settingOf(standing.HistoryVisibility).visibility == worldReadable:
		return access{peeker: true}, nil
	}
	return access{}, ErrForbidden
}
