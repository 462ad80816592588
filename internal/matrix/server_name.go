package matrix

import (
	"net/netip"
	"regexp"
	"strings"
)

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
