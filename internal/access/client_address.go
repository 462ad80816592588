package access

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress returns where a request comes from: the other end of its
// connection, unless that is a trusted proxy, which says by X-Forwarded-For whom
// it speaks for. Each proxy adds whom it got the request from to the end, so it is
// read from there up to the first address that is none of a trusted proxy: what
// is before that, anybody may have made up. Of an IPv6 address that is no proxy's
// only the network counts, the first 64 bits, of which one machine has all
// addresses. Where nothing can be made out, it is the zero address for all.
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
			break // the proxy that has sent this counts
		}
		address = next
		if !isTrusted() {
			return network(address)
		}
	}
	return address
}

// parseForwarded parses one address of X-Forwarded-For, to which some proxies add
// the port.
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

// network is the address without what its owner can choose.
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
