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
func accessOf(reader timeline.ReaderAccess) (access, error) {
	switch {
	case reader.Membership == "join":
		return access{}, nil
	// Without the leave event it is not known how far the reader may read.
	case reader.Membership == "leave" && reader.Remembered && reader.At != nil:
		return access{left: reader.At}, nil
	case settingOf(reader.HistoryVisibility).visibility == worldReadable:
		return access{peeker: true}, nil
	}
	return access{}, ErrForbidden
}
