package httpapi

import (
	"crypto/sha256"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// How often access tokens may be wrong. One address may send some that nobody
// has, and then one now and then; one that is sent again counts once a minute,
// and has an allowance of its own. So whoever guesses is held up, and a script
// with an old access token holds up nobody but itself, though it may share an
// address with all others.
var (
	wrongTokens = allowance{burst: 100, every: time.Second}
	sameToken   = allowance{burst: 10, every: time.Second}
)

const (
	// tokenWrong is for how long a wrong access token counts no second time, from
	// when its own allowance is full again.
	tokenWrong = time.Minute

	// tokenKnown is for how long an access token that was good is looked at,
	// whatever else comes from its address. It is judged each time all the same.
	tokenKnown = time.Hour

	// mostGuesses bounds each thing that is remembered.
	mostGuesses = 10_000
)

// An allowance is a burst of attempts, and one more each time that every passes.
type allowance struct {
	burst int
	every time.Duration
}

// full is how long it takes until nothing has to be remembered of attempts.
func (a allowance) full() time.Duration { return time.Duration(a.burst) * a.every }

// A guess is an access token from an address, or the hash of a token alone. Hashes
// are all that is kept of tokens.
type guess [sha256.Size]byte

// guesses remembers which access tokens were wrong, for minutes. It is safe for
// concurrent use, and its size is bounded: when it is full of what cannot be
// forgotten yet, it forgets all, and those who guess from ten thousand addresses
// get a little further.
type guesses struct {
	now func() time.Time

	// Each has the moment when it can be forgotten. An allowance is kept as the
	// moment when it is full again, which each attempt moves by the time that it
	// takes to come back.
	mu        sync.Mutex
	good      map[guess]time.Time
	tokens    map[guess]time.Time      // tokenWrong after their allowance is full
	addresses map[netip.Addr]time.Time // when their allowance is full
}

func newGuesses() *guesses {
	return &guesses{
		now:  time.Now,
		good: map[guess]time.Time{}, tokens: map[guess]time.Time{}, addresses: map[netip.Addr]time.Time{},
	}
}

// wait returns how long the access token from the address has to wait before it
// is looked at, 0 if not at all.
func (g *guesses) wait(address netip.Addr, token string) time.Duration {
	now := g.now()
	hash, pair := hashes(address, token)
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Before(g.good[hash]) {
		return 0
	}
	if forget := g.tokens[pair]; now.Before(forget) {
		return sameToken.wait(now, forget.Add(-tokenWrong))
	}
	return wrongTokens.wait(now, g.addresses[address])
}

// wrong says that nobody has the access token.
func (g *guesses) wrong(address netip.Addr, token string) {
	now := g.now()
	hash, pair := hashes(address, token)
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.good, hash)
	forget := g.tokens[pair]
	if !now.Before(forget) {
		keep(g.addresses, address, wrongTokens.after(now, g.addresses[address]), now)
	}
	keep(g.tokens, pair, sameToken.after(now, forget.Add(-tokenWrong)).Add(tokenWrong), now)
}

// right says that somebody has the access token.
func (g *guesses) right(token string) {
	now := g.now()
	hash := guess(sha256.Sum256([]byte(token)))
	g.mu.Lock()
	defer g.mu.Unlock()
	keep(g.good, hash, now.Add(tokenKnown), now)
}

// wait returns how long it takes until there is one attempt more.
func (a allowance) wait(now, full time.Time) time.Duration {
	if !now.Before(full) {
		return 0
	}
	return max(0, full.Sub(now)-a.full()+a.every)
}

// after returns when the allowance is full again after one attempt more. Attempts
// that were let through at the same time, for there was one left, owe nothing
// beyond it.
func (a allowance) after(now, full time.Time) time.Time {
	if full.Before(now) {
		full = now
	}
	full = full.Add(a.every)
	if most := now.Add(a.full()); full.After(most) {
		return most
	}
	return full
}

// keep remembers a moment, and makes room for it by forgetting those that are over.
func keep[K comparable](moments map[K]time.Time, key K, moment, now time.Time) {
	if _, known := moments[key]; !known && len(moments) >= mostGuesses {
		for key, over := range moments {
			if !now.Before(over) {
				delete(moments, key)
			}
		}
		if len(moments) >= mostGuesses {
			clear(moments)
		}
	}
	moments[key] = moment
}

func hashes(address netip.Addr, token string) (hash, pair guess) {
	hash = sha256.Sum256([]byte(token))
	from := address.As16()
	return hash, sha256.Sum256(append(from[:], hash[:]...))
}

// tooMany is the refusal of a caller whose access tokens were wrong too often.
func tooMany(wait time.Duration) *apiError {
	ms := int64((wait + time.Millisecond - 1) / time.Millisecond)
	return &apiError{
		Status: http.StatusTooManyRequests, Code: "M_LIMIT_EXCEEDED", Text: "Too many wrong access tokens", RetryAfter: ms,
	}
}
