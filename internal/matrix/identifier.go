package matrix

import (
	"net/netip"
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

var (
	// port and dnsName follow the grammar in the appendix of the Matrix
	// specification. Like a homeserver, Lethe does not check a port's value.
	port    = regexp.MustCompile(`^[0-9]{1,5}$`)
	dnsName = regexp.MustCompile(`^[A-Za-z0-9.-]{1,230}$`)
)

// ValidServerName reports whether s is a server name: a DNS name, an IPv4
// address or a bracketed IPv6 address, each with an optional port.
func ValidServerName(s string) bool {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		literal, rest, ok := strings.Cut(rest, "]")
		if !ok || (rest != "" && !validPort(rest)) {
			return false
		}
		addr, err := netip.ParseAddr(literal)
		return err == nil && addr.Is6() && addr.Zone() == ""
	}
	host, rest := s, ""
	if i := strings.IndexByte(s, ':'); i >= 0 {
		host, rest = s[:i], s[i:]
	}
	return dnsName.MatchString(host) && (rest == "" || validPort(rest))
}

// validPort reports whether s is a colon and a port.
func validPort(s string) bool {
	digits, ok := strings.CutPrefix(s, ":")
	return ok && port.MatchString(digits)
}
