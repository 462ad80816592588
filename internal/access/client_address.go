package access

import (
	"cmp"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientAddress returns the address that sent a request, as [originOf] does. An IPv6
// address is reduced to its network, the first 64 bits, because a machine usually has all
// addresses of one.
func clientAddress(r *http.Request, trusted []netip.Prefix) netip.Addr {
	address, proxy := originOf(r, trusted)
	if proxy {
		return address
	}
	return network(address)
}

// originOf returns the address that sent a request: the other end of its connection, or, if
// that is a trusted proxy, an address of X-Forwarded-For. Each proxy appends the address
// that it got the request from. So the header is read from its end up to the first address
// that is not a trusted proxy, because a client may have made up everything before that.
// If there is only that of a trusted proxy, proxy is true. The zero address is returned if
// the connection has none.
func originOf(r *http.Request, trusted []netip.Prefix) (address netip.Addr, proxy bool) {
	connection, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}, false
	}
	address = connection.Addr().Unmap().WithZone("")
	if !trusts(trusted, address) {
		return address, false
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
		if !trusts(trusted, address) {
			return address, false
		}
	}
	return address, true
}

func trusts(networks []netip.Prefix, address netip.Addr) bool {
	return slices.ContainsFunc(networks, func(network netip.Prefix) bool { return network.Contains(address) })
}

// forwardedHeaders are the headers by which proxies say where a request comes from, besides
// those that begin with X-Forwarded.
var forwardedHeaders = []string{"Forwarded", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For", "True-Client-Ip"}

// Forward prepares a request that is passed on to the homeserver, which believes Lethe.
// X-Forwarded-For becomes the one address that has sent the request. X-Forwarded-Host and
// X-Forwarded-Proto are those of a trusted proxy, or else how the request came to Lethe.
// All other headers of that kind are removed: a client may have made them up.
func (c *Control) Forward(r *http.Request) {
	address, _ := originOf(r, c.trustedProxies)
	host, scheme := r.Host, "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && trusts(c.trustedProxies, peer.Addr().Unmap().WithZone("")) {
		host = cmp.Or(r.Header.Get("X-Forwarded-Host"), host)
		scheme = cmp.Or(r.Header.Get("X-Forwarded-Proto"), scheme)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Forwarded") || slices.Contains(forwardedHeaders, name) {
			delete(r.Header, name)
		}
	}
	if address.IsValid() {
		r.Header.Set("X-Forwarded-For", address.String())
	}
	r.Header.Set("X-Forwarded-Host", host)
	r.Header.Set("X-Forwarded-Proto", scheme)
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
