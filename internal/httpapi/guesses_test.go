package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A clock stands still unless it is moved.
type clock struct{ time.Time }

func newTestGuesses() (*guesses, *clock) {
	g, c := newGuesses(), &clock{time.Unix(1_000_000, 0)}
	g.now = func() time.Time { return c.Time }
	return g, c
}

func (c *clock) pass(d time.Duration) { c.Time = c.Add(d) }

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

func TestWhoGuessesIsHeldUp(t *testing.T) {
	t.Parallel()
	g, clock := newTestGuesses()
	for i := range wrongTokens.burst {
		require.Zero(t, g.wait(here, fmt.Sprint(i)))
		g.wrong(here, fmt.Sprint(i))
	}
	require.Equal(t, wrongTokens.every, g.wait(here, "one more"))
	require.Zero(t, g.wait(there, "one more"), "another address is held up")
	clock.pass(wrongTokens.every)
	require.Zero(t, g.wait(here, "one more"))
	g.wrong(here, "one more")
	require.Equal(t, wrongTokens.every, g.wait(here, "two more"))
	clock.pass(wrongTokens.full())
	require.Zero(t, g.wait(here, "two more"))
	for i := range wrongTokens.burst {
		require.Zero(t, g.wait(here, fmt.Sprint("again", i)), "it has not got all of it back")
		g.wrong(here, fmt.Sprint("again", i))
	}
}

func TestAGoodTokenGoesOnWhateverComesFromItsAddress(t *testing.T) {
	t.Parallel()
	g, clock := newTestGuesses()
	g.right("good")
	for i := range 2 * wrongTokens.burst {
		g.wrong(here, fmt.Sprint(i))
	}
	require.Zero(t, g.wait(here, "good"))
	require.Equal(t, wrongTokens.every, g.wait(here, "new"), "attempts at the same time are owed")

	// Until it is wrong, or has not been seen for long.
	for range sameToken.burst {
		require.Zero(t, g.wait(here, "good"))
		g.wrong(here, "good")
	}
	require.Equal(t, sameToken.every, g.wait(here, "good"))
	require.Zero(t, g.wait(there, "good"))
	g.right("good")
	require.Zero(t, g.wait(here, "good"))
	clock.pass(tokenKnown)
	for i := range 2 * wrongTokens.burst {
		g.wrong(here, fmt.Sprint("later", i))
	}
	require.NotZero(t, g.wait(here, "good"))
}

func TestOneFailingScriptHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{time.Millisecond, time.Second, 1500 * time.Millisecond, 20 * time.Second} {
		g, clock := newTestGuesses()
		refused := 0
		for range 5000 {
			if g.wait(here, "old") == 0 {
				g.wrong(here, "old")
			} else {
				refused++
			}
			require.Zero(t, g.wait(here, "new of the operator"), "behind the same proxy, every %s", every)
			clock.pass(every)
		}
		require.Equal(t, every < time.Second, refused > 0, "every %s", every)
	}
}

func TestGuessesAreBounded(t *testing.T) {
	t.Parallel()
	g, clock := newTestGuesses()
	for i := range 3 * mostGuesses {
		address := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		g.wrong(address, fmt.Sprint(i))
		g.right(fmt.Sprint(i))
	}
	for _, n := range []int{len(g.good), len(g.tokens), len(g.addresses)} {
		require.LessOrEqual(t, n, mostGuesses)
	}
	// What is over makes room for what is not.
	clock.pass(24 * time.Hour)
	g.right("kept")
	for i := range mostGuesses - 1 {
		g.wrong(here, fmt.Sprint(i))
	}
	require.Zero(t, g.wait(here, "kept"))
}

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
