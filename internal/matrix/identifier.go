package matrix

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// maxIdentifier is how many bytes a user id, a room id, an event's type and a
// state key may have.
const maxIdentifier = 255

// hashRoomID is a room id of the versions since 12.
var hashRoomID = regexp.MustCompile(`^![A-Za-z0-9_-]{43}$`)

// ValidUserID reports whether s is a user id: @, a localpart, which may be empty
// and hold almost anything, as those of old accounts do, a colon and a server
// name, in at most 255 bytes.
func ValidUserID(s string) bool {
	server, ok := ServerOf(s)
	return ok && strings.HasPrefix(s, "@") && ValidServerName(server) &&
		len(s) <= maxIdentifier && utf8.ValidString(s) && !strings.Contains(s, "\x00")
}

// ServerOf returns the server of the id of a user, or of another id that has
// one: what follows the first colon. It does not judge the server's name. Ok is
// false if there is no colon, as in the ids of rooms since version 12.
func ServerOf(id string) (server string, ok bool) {
	_, server, ok = strings.Cut(id, ":")
	return server, ok
}

// ValidRoomID reports whether s is what a homeserver calls a legal room id: it
// begins with !, and either a server name follows its first colon, whatever lies
// between, or it has no colon and the rest is the 43 characters of a hash.
func ValidRoomID(s string) bool {
	if server, ok := ServerOf(s); ok {
		return strings.HasPrefix(s, "!") && ValidServerName(server)
	}
	return hashRoomID.MatchString(s)
}
