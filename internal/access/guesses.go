package access

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"lethe/internal/expiring"
)

// The limits of wrong access tokens. An address may send a number of different
// wrong tokens at once, and then one each interval. A token that is repeated has a
// limit of its own, and counts for its address once a minute. So guessing is slow,
// while a script with an outdated token slows down only itself, although others may
// share its address.
var (
	addressLimit = allowance{burst: 100, every: time.Second}
	tokenLimit   = allowance{burst: 10, every: time.Second}
)

const (
	// wrongTTL is how long a wrong token is remembered after its own limit has
	// recovered. While it is remembered it does not count for its address.
	wrongTTL = time.Minute

	// goodTTL is how long a token that was good is exempt from the limit of its
	// address. It is still checked each time.
	goodTTL = time.Hour

	// maxGuesses bounds each of the maps of guesses.
	maxGuesses = 10_000
)

// An allowance is a burst of attempts, and one more each interval.
type allowance struct {
	burst int
	every time.Duration
}

func (a allowance) newLimiter() *rate.Limiter { return rate.NewLimiter(rate.Every(a.every), a.burst) }

// untilTokens returns the time until a limiter allows that many attempts.
func untilTokens(limiter *rate.Limiter, now time.Time, attempts int) time.Duration {
	missing := float64(attempts) - limiter.TokensAt(now)
	return time.Duration(math.Ceil(max(0, missing) / float64(limiter.Limit()) * float64(time.Second)))
}

// A tokenHash is a hash of an access token, alone or with the address that sent
// it. Tokens themselves are not kept.
type tokenHash [sha256.Size]byte

// guesses limits how often wrong access tokens are checked. It is safe for
// concurrent use. Its memory is bounded: an attacker who uses more than maxGuesses
// addresses gets a few more attempts.
type guesses struct {
	mu        sync.Mutex // so that attempts at the same time share a limiter
	good      *expiring.Map[tokenHash, struct{}]
	tokens    *expiring.Map[tokenHash, *rate.Limiter]
	addresses *expiring.Map[netip.Addr, *rate.Limiter]
}

func newGuesses() *guesses {
	return &guesses{
		good:      expiring.New[tokenHash, struct{}](maxGuesses),
		tokens:    expiring.New[tokenHash, *rate.Limiter](maxGuesses),
		addresses: expiring.New[netip.Addr, *rate.Limiter](maxGuesses),
	}
}

// wait returns how long the token from the address has to wait until it may be
// checked, 0 if it need not wait.
func (g *guesses) wait(address netip.Addr, token string) time.Duration {
	hash, pair := hashesOf(address, token)
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, good := g.good.Get(hash); good {
		return 0
	}
	limiter, known := g.tokens.Get(pair)
	if !known {
		limiter, known = g.addresses.Get(address)
	}
	if !known {
		return 0
	}
	return untilTokens(limiter, time.Now(), 1)
}

// addWrong records that the token was wrong. A token that was good is no guess, so it
// does not count for its address: tokens of Matrix Authentication Service end after
// minutes, and the service does not say that one was good.
func (g *guesses) addWrong(address netip.Addr, token string) {
	now := time.Now()
	hash, pair := hashesOf(address, token)
	g.mu.Lock()
	defer g.mu.Unlock()
	_, wasGood := g.good.Get(hash)
	g.good.Delete(hash)
	limiter, known := g.tokens.Get(pair)
	if !known {
		limiter = tokenLimit.newLimiter()
	}
	if !known && !wasGood {
		addressLimiter, known := g.addresses.Get(address)
		if !known {
			addressLimiter = addressLimit.newLimiter()
		}
		addressLimiter.AllowN(now, 1)
		g.addresses.Put(address, addressLimiter, untilTokens(addressLimiter, now, addressLimit.burst))
	}
	limiter.AllowN(now, 1)
	g.tokens.Put(pair, limiter, untilTokens(limiter, now, tokenLimit.burst)+wrongTTL)
}

// addGood records that the token was good.
func (g *guesses) addGood(token string) {
	g.good.Put(hashOf(token), struct{}{}, goodTTL)
}

func hashOf(token string) tokenHash { return sha256.Sum256([]byte(token)) }

func hashesOf(address netip.Addr, token string) (hash, pair tokenHash) {
	hash = hashOf(token)
	from := address.As16()
	return hash, sha256.Sum256(append(from[:], hash[:]...))
}
