package matrix

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxIdentifier is the maximum size of a user id, a room id, an event's type and a
// state key, in bytes.
const maxIdentifier = 255

// hashRoomID matches a room id since version 12.
var hashRoomID = regexp.MustCompile(`^![A-Za-z0-9_-]{43}$`)

// ValidUserID reports whether s is a user id: @, a localpart, a colon and a server
// name, in at most 255 bytes. The localpart may be empty and contain almost any
// character, as in the ids of old accounts.
func ValidUserID(s string) bool {
	server, ok := ServerOf(s)
	return ok && strings.HasPrefix(s, "@") && ValidServerName(server) &&
		len(s) <= maxIdentifier && utf8.ValidString(s) && !strings.Contains(s, "\x00")
}

// ServerOf returns the server of a user id or another id: the text after the first
// colon. It does not check the server name. Ok is false without a colon, as in room
// ids since version 12.
func ServerOf(id string) (server string, ok bool) {
	_, server, ok = strings.Cut(id, ":")
	return server, ok
}

// ValidRoomID reports whether s is what a homeserver calls a legal room id. It begins
// with !. Either a server name follows the first colon, with any text between, or
// there is no colon and the rest is a hash of 43 characters.
func ValidRoomID(s string) bool {
	if server, ok := ServerOf(s); ok {
		return strings.HasPrefix(s, "!") && ValidServerName(server)
	}
	return hashRoomID.MatchString(s)
}
