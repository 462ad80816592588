package access

import (
	"net/http"
	"time"

	"lethe/internal/expiring"
	"lethe/internal/messages"
)

const (
	// recentTTL is how long the caller of an access token is remembered, for
	// requests that only read history. A client reads page after page.
	recentTTL = 2 * time.Second

	// maxRecent bounds the number of access tokens that are remembered.
	maxRecent = 10_000
)

// recentCallers remembers for a moment for whom access tokens speak, by a hash of
// each. Refusals are not remembered. It is safe for concurrent use.
type recentCallers struct {
	byToken *expiring.Map[tokenHash, messages.Reader]
}

func newRecentCallers() *recentCallers {
	return &recentCallers{byToken: expiring.New[tokenHash, messages.Reader](maxRecent)}
}

// before returns an identifier that calls the given one only for tokens that are
// not remembered.
func (c *recentCallers) before(identify identifier) identifier {
	return func(r *http.Request, token string) (messages.Reader, error) {
		hash := hashOf(token)
		if reader, ok := c.byToken.Get(hash); ok {
			return reader, nil
		}
		asked := time.Now()
		reader, err := identify(r, token)
		if err == nil {
			c.byToken.Put(hash, reader, recentTTL-time.Since(asked))
		}
		return reader, err
	}
}
