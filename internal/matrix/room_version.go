package matrix

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrRoomVersion is returned for a room version that is not
// [RoomVersion.Supported].
var ErrRoomVersion = errors.New("a room version that is not supported")

// A RoomVersion says by which rules the events of a room are made and judged.
// It is a room's room_version in the database, so it may be any text.
type RoomVersion string

// Supported reports whether the version is one of those whose events this
// package can make and judge: 9, 10, 11 and 12.
func (v RoomVersion) Supported() bool {
	switch v {
	case "9", "10", "11", "12":
		return true
	default:
		return false
	}
}

// check returns an error that wraps ErrRoomVersion if the version is not
// supported.
func (v RoomVersion) check() error {
	if !v.Supported() {
		return fmt.Errorf("room version %.20q: %w", string(v), ErrRoomVersion)
	}
	return nil
}

// stringLevels reports whether power levels may be strings of digits.
func (v RoomVersion) stringLevels() bool { return v == "9" }

// newestVersion is the version whose rules are taken for those of an unknown one
// where events have to be read all the same.
const newestVersion = 12

// number returns the version as a number from 1 on.
func (v RoomVersion) number() int {
	number, err := strconv.Atoi(string(v))
	if err != nil || number < 1 || number > newestVersion {
		return newestVersion
	}
	return number
}

// RedactsInContent reports whether a redaction says in its content what it
// redacts, and not beside it. A version that is unknown is taken for the newest.
func (v RoomVersion) RedactsInContent() bool { return v.newRedactions() }

// newRedactions reports whether redactions keep what version 11 made them keep.
func (v RoomVersion) newRedactions() bool { return v.number() >= 11 }

// roomIsCreateEvent reports whether the room's id is that of its create event.
// Such an event names no room, the others do not name it among their auth
// events, and the creators' power has no bounds.
func (v RoomVersion) roomIsCreateEvent() bool { return v == "12" }
