package access

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClientAddress(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for name, test := range map[string]struct {
		connection string
		forwarded  []string
		trusted    []netip.Prefix
		want       string
	}{
		"no proxy":               {"192.0.2.1:5", nil, trusted, "192.0.2.1"},
		"made up, by default":    {"192.0.2.1:5", []string{"198.51.100.1"}, nil, "192.0.2.1"},
		"made up, by no proxy":   {"192.0.2.1:5", []string{"198.51.100.1"}, trusted, "192.0.2.1"},
		"by a proxy":             {"10.0.0.1:5", []string{"192.0.2.1"}, trusted, "192.0.2.1"},
		"made up before a proxy": {"10.0.0.1:5", []string{"198.51.100.1, 192.0.2.1"}, trusted, "192.0.2.1"},
		"in headers of its own":  {"10.0.0.1:5", []string{"198.51.100.1", "192.0.2.1"}, trusted, "192.0.2.1"},
		"proxies in a row":       {"10.0.0.1:5", []string{"198.51.100.1,192.0.2.1 , 10.0.0.2,10.0.0.3"}, trusted, "192.0.2.1"},
		"proxies alone":          {"10.0.0.1:5", []string{"10.0.0.2"}, trusted, "10.0.0.2"},
		"a proxy that says none": {"10.0.0.1:5", nil, trusted, "10.0.0.1"},
		"with a port":            {"10.0.0.1:5", []string{"192.0.2.1:1234"}, trusted, "192.0.2.1"},
		"what is no address":     {"10.0.0.1:5", []string{"192.0.2.1, unknown"}, trusted, "10.0.0.1"},
		"nothing at the end":     {"10.0.0.1:5", []string{"192.0.2.1,"}, trusted, "10.0.0.1"},
		"commas alone":           {"10.0.0.1:5", []string{strings.Repeat(",", 1000)}, trusted, "10.0.0.1"},
		"IPv6 by its network":    {"[2001:db8:1:2:3:4:5:6]:5", nil, trusted, "2001:db8:1:2::"},
		"IPv6 with a zone":       {"[fe80::1%eth0]:5", nil, nil, "fe80::"},
		"IPv6 by a proxy":        {"[fd00::1]:5", []string{"[2001:db8:1:2:3::]:44"}, trusted, "2001:db8:1:2::"},
		"IPv4 in IPv6":           {"[::ffff:10.0.0.1]:5", []string{"::ffff:192.0.2.1"}, trusted, "192.0.2.1"},
		"no address at all":      {"@", []string{"192.0.2.1"}, trusted, "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &http.Request{RemoteAddr: test.connection, Header: http.Header{"X-Forwarded-For": test.forwarded}}
			require.Equal(t, test.want, clientAddress(r, test.trusted).String())
		})
	}
}
