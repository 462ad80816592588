package httpapi

import (
	"context"
	"net/http"
	"sync"
	"time"

	"lethe/internal/wire"
)

const (
	// maxPages is the number of a user's pages that are made at a time. A client asks for
	// few, and a user who asks for many must not make others wait.
	maxPages = 4

	// maxFilteredPages is how many of them may have a filter. It may read a whole room.
	maxFilteredPages = 2

	// maxWaitingPages is the number of a user's requests that wait for their turn.
	maxWaitingPages = 32

	// turnWait bounds that wait.
	turnWait = 5 * time.Second
)

var errTooManyPages = &wire.Error{
	Status: http.StatusTooManyRequests, Code: "M_LIMIT_EXCEEDED", Text: "Too Many Requests", RetryAfter: 1000,
}

// pageTurns lets each user have a number of pages made at a time. It is safe for
// concurrent use.
type pageTurns struct {
	mu    sync.Mutex
	users map[string]*userTurns // those with a request
}

// A userTurns is the turns of one user.
type userTurns struct {
	free     chan struct{} // has an element for each page that is being made
	filtered chan struct{} // has an element for each of them with a filter, and before
	requests int
}

func newPageTurns() *pageTurns { return &pageTurns{users: map[string]*userTurns{}} }

// take waits for a turn of the user. The caller ends it with done. It refuses the request
// after 5 s without a turn, and at once if too many requests of the user wait.
func (t *pageTurns) take(ctx context.Context, user string, filtered bool) (done func(), err error) {
	t.mu.Lock()
	turns := t.users[user]
	if turns == nil {
		turns = &userTurns{free: make(chan struct{}, maxPages), filtered: make(chan struct{}, maxFilteredPages)}
		t.users[user] = turns
	}
	turns.requests++
	full := turns.requests > maxPages+maxWaitingPages
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if turns.requests--; turns.requests == 0 {
			delete(t.users, user)
		}
	}
	if full {
		leave()
		return nil, errTooManyPages
	}
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	if filtered {
		select {
		case turns.filtered <- struct{}{}:
		case <-ctx.Done():
			leave()
			return nil, errTooManyPages
		}
		whole := leave
		leave = func() {
			<-turns.filtered
			whole()
		}
	}
	select {
	case turns.free <- struct{}{}:
		return func() {
			<-turns.free
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, errTooManyPages
	}
}
