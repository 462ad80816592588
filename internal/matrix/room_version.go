package matrix

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrRoomVersion is returned for a room version that is not
// [RoomVersion.Supported].
var ErrRoomVersion = errors.New("unsupported room version (need 1 to 12)")

// A RoomVersion names the rules for the events of a room. It is the room's
// room_version in the database, so it may be any text.
type RoomVersion string

// Supported reports whether this package can create events of the version: 1 to 12.
func (v RoomVersion) Supported() bool {
	_, ok := v.EventFormat()
	return ok
}

// check returns an error that wraps ErrRoomVersion if the version is not
// supported.
func (v RoomVersion) check() error {
	if !v.Supported() {
		return fmt.Errorf("room version %.20q: %w", string(v), ErrRoomVersion)
	}
	return nil
}

// newestVersion is the version whose rules apply to events of an unknown version.
const newestVersion = 12

// number returns the version as a number, and newestVersion for an unknown version.
func (v RoomVersion) number() int {
	number, err := strconv.Atoi(string(v))
	if err != nil || number < 1 || number > newestVersion {
		return newestVersion
	}
	return number
}

// RedactsInContent reports whether the key redacts is in a redaction's content, and
// not at its top level. An unknown version is treated as the newest.
func (v RoomVersion) RedactsInContent() bool { return v.newRedactions() }

// newRedactions reports whether redactions follow the rules since version 11.
func (v RoomVersion) newRedactions() bool { return v.number() >= 11 }

// roomIsCreateEvent reports whether the room's id is made of the id of its create
// event. The create event then has no room id, the other events do not list it among
// their auth events, and the creators have unlimited power.
func (v RoomVersion) roomIsCreateEvent() bool { return v == "12" }

// NamesCreator reports whether the content of a create event names the creator.
func (v RoomVersion) NamesCreator() bool { return v.number() < 11 }

// anyNumbers reports whether events may have numbers that canonical JSON does not
// allow: fractions, and integers beyond ±(2^53-1).
func (v RoomVersion) anyNumbers() bool { return v.number() < 6 }

// EventFormat returns the number of the storage format for events of the room
// version. It is false if the version is not one of 1 to 12.
func (v RoomVersion) EventFormat() (format int, ok bool) {
	switch v {
	case "1", "2":
		return 1, true
	case "3":
		return 2, true
	case "4", "5", "6", "7", "8", "9", "10", "11":
		return 3, true
	case "12":
		return 4, true
	default:
		return 0, false
	}
}
