package httpapi

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"lethe/internal/messages"
)

const (
	// callerKept is for how long it is believed whom an access token speaks for, where
	// history is read and nothing else. A client reads page after page.
	callerKept = 2 * time.Second

	// mostCallers bounds how many access tokens are remembered.
	mostCallers = 10_000
)

// A judge finds out for whom an access token speaks.
type judge func(r *http.Request, token string) (messages.Reader, error)

// recentCallers remembers for a moment whom access tokens speak for, by a hash of each.
// Refusals are not remembered. It is safe for concurrent use.
type recentCallers struct {
	now func() time.Time

	mu      sync.Mutex
	byToken map[[sha256.Size]byte]recentCaller
}

type recentCaller struct {
	reader messages.Reader
	until  time.Time
}

func newRecentCallers() *recentCallers {
	return &recentCallers{now: time.Now, byToken: map[[sha256.Size]byte]recentCaller{}}
}

// before is a judge that asks the other one only about tokens that are not remembered.
func (c *recentCallers) before(ask judge) judge {
	return func(r *http.Request, token string) (messages.Reader, error) {
		key, now := sha256.Sum256([]byte(token)), c.now()
		c.mu.Lock()
		known := c.byToken[key]
		c.mu.Unlock()
		if now.Before(known.until) {
			return known.reader, nil
		}
		reader, err := ask(r, token)
		if err == nil {
			c.keep(key, recentCaller{reader, now.Add(callerKept)})
		}
		return reader, err
	}
}

func (c *recentCallers) keep(key [sha256.Size]byte, caller recentCaller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byToken) >= mostCallers {
		clear(c.byToken) // each costs one query to learn again
	}
	c.byToken[key] = caller
}
