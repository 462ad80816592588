package messages

import (
	"lethe/internal/matrix"
	"lethe/internal/store/timeline"
)

// An access is how a reader may read a room.
type access struct {
	// peeker says that anybody may, and the reader is nobody special.
	peeker bool

	// left is where the reader's leave event stands, nil for one who is in.
	left *matrix.Token
}

// accessOf decides whether a reader of this standing may read the room, and how. If
// not, the error is [ErrForbidden].
func accessOf(standing timeline.Standing) (access, error) {
	switch {
	case standing.Membership == "join":
		return access{}, nil
	// Of one whose leave is gone nobody can say how far it may read.
	case standing.Membership == "leave" && standing.Remembered && standing.At != nil:
		return access{left: standing.At}, nil
	case settingOf(standing.HistoryVisibility).visibility == worldReadable:
		return access{peeker: true}, nil
	}
	return access{}, ErrForbidden
}
