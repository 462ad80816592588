package access

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress returns the address that sent a request: the other end of its
// connection, or, if that is a trusted proxy, an address of X-Forwarded-For. Each proxy
// appends the address that it got the request from. So the header is read from its end
// up to the first address that is not a trusted proxy, because a client may have made
// up everything before that. An IPv6 address is reduced to its network, the first 64
// bits, because a machine usually has all addresses of one. The zero address is
// returned if the connection has none.
func clientAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	connection, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	address := connection.Addr().Unmap().WithZone("")
	isTrusted := func() bool {
		return slices.ContainsFunc(trusted, func(network netip.Prefix) bool { return network.Contains(address) })
	}
	if !isTrusted() {
		return network(address)
	}
	rest := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	for rest != "" {
		last := rest[strings.LastIndexByte(rest, ',')+1:]
		rest = strings.TrimSuffix(rest[:len(rest)-len(last)], ",")
		next, ok := parseForwarded(strings.TrimSpace(last))
		if !ok {
			break // the proxy that sent this counts
		}
		address = next
		if !isTrusted() {
			return network(address)
		}
	}
	return address
}

// parseForwarded parses one address of X-Forwarded-For. Some proxies add the port.
func parseForwarded(text string) (netip.Addr, bool) {
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}, false
		}
		address = withPort.Addr()
	}
	return address.Unmap().WithZone(""), true
}

// network returns an address without the part that its owner can choose.
func network(address netip.Addr) netip.Addr {
	if address.Is4() {
		return address
	}
	prefix, err := address.Prefix(64)
	if err != nil {
		return address
	}
	return prefix.Addr()
}
