package access

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("192.0.2.2")
)

func TestGuessingIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses()
		for i := range addressLimit.burst {
			require.Zero(t, g.wait(here, fmt.Sprint(i)))
			g.addWrong(here, fmt.Sprint(i))
		}
		require.Equal(t, addressLimit.every, g.wait(here, "one more"))
		require.Zero(t, g.wait(there, "one more"), "another address has to wait")
		time.Sleep(addressLimit.every)
		require.Zero(t, g.wait(here, "one more"))
		g.addWrong(here, "one more")
		require.Equal(t, addressLimit.every, g.wait(here, "two more"))
		time.Sleep(fullTime(addressLimit))
		require.Zero(t, g.wait(here, "two more"))
		for i := range addressLimit.burst {
			require.Zero(t, g.wait(here, fmt.Sprint("again", i)), "the limit has not fully recovered")
			g.addWrong(here, fmt.Sprint("again", i))
		}
	})
}

// fullTime is how long an exhausted allowance takes to recover.
func fullTime(a allowance) time.Duration { return time.Duration(a.burst) * a.every }

func TestAGoodTokenIsExemptFromTheLimitOfItsAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses()
		g.addGood("good")
		for i := range 2 * addressLimit.burst {
			g.addWrong(here, fmt.Sprint(i))
		}
		require.Zero(t, g.wait(here, "good"))
		require.Equal(t, addressLimit.every, g.wait(here, "new"), "attempts at the same time are owed")

		// Until it is wrong, or has not been seen for long.
		for range tokenLimit.burst {
			require.Zero(t, g.wait(here, "good"))
			g.addWrong(here, "good")
		}
		require.Equal(t, tokenLimit.every, g.wait(here, "good"))
		require.Zero(t, g.wait(there, "good"))
		g.addGood("good")
		require.Zero(t, g.wait(here, "good"))
		time.Sleep(goodTTL)
		for i := range 2 * addressLimit.burst {
			g.addWrong(here, fmt.Sprint("later", i))
		}
		require.NotZero(t, g.wait(here, "good"))
	})
}

// The tokens of many users behind one proxy end all the time.
func TestATokenThatWasGoodIsNoGuess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses()
		for i := range 2 * addressLimit.burst {
			g.addGood(fmt.Sprint(i))
			g.addWrong(here, fmt.Sprint(i))
		}
		require.Zero(t, g.wait(here, "new"))
		for i := range addressLimit.burst {
			g.addWrong(here, fmt.Sprint("wrong", i))
		}
		require.Equal(t, addressLimit.every, g.wait(here, "new"))
	})
}

func TestAScriptWithAnOutdatedTokenSlowsDownOnlyItself(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{time.Millisecond, time.Second, 1500 * time.Millisecond, 20 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			g := newGuesses()
			refused := 0
			for range 5000 {
				if g.wait(here, "old") == 0 {
					g.addWrong(here, "old")
				} else {
					refused++
				}
				require.Zero(t, g.wait(here, "new of the operator"), "behind the same proxy, every %s", every)
				time.Sleep(every)
			}
			require.Equal(t, every < time.Second, refused > 0, "every %s", every)
		})
	}
}

func TestGuessesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newGuesses()
		for i := range 3 * maxGuesses {
			address := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			g.addWrong(address, fmt.Sprint(i))
			g.addGood(fmt.Sprint(i))
		}
		// Each map has evicted the first entries and has the last.
		for i, kept := range map[int]bool{0: false, 3*maxGuesses - 1: true} {
			address := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			hash, pair := hashesOf(address, fmt.Sprint(i))
			_, good := g.good.Get(hash)
			_, token := g.tokens.Get(pair)
			_, attempts := g.addresses.Get(address)
			require.Equal(t, []bool{kept, kept, kept}, []bool{good, token, attempts})
		}
		// Expired entries make room for others.
		time.Sleep(24 * time.Hour)
		g.addGood("kept")
		for i := range maxGuesses - 1 {
			g.addWrong(here, fmt.Sprint(i))
		}
		require.Zero(t, g.wait(here, "kept"))
	})
}
