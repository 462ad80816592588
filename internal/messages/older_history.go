package messages

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"lethe/internal/expiring"
	"lethe/internal/homeserver"
	"lethe/internal/matrix"
)

// OlderHistoryOptions are what [NewOlderHistory] can be told. The zero value of
// each field stands for its default.
type OlderHistoryOptions struct {
	// AtOnce is in how many rooms the homeserver is asked at a time. Defaults to
	// 8.
	AtOnce int

	// Pause is for how long the same page of a room is not asked for again.
	// Defaults to 30 s.
	Pause time.Duration

	// Timeout bounds the asking: a reader waits. Defaults to 8 s.
	Timeout time.Duration
}

var (
	errNoAccessToken = fmt.Errorf("%w: the reader has no access token to ask with", ErrNotAsked)
	errAskedJustNow  = fmt.Errorf("%w: the homeserver was asked just now", ErrNotAsked)
	errTooManyAsk    = fmt.Errorf("%w: too many ask already", ErrNotAsked)
)

// maxAsked is how many pages are remembered as asked for.
const maxAsked = 10_000

// OlderHistory is a [Backfill] that has the homeserver do it: a page of its own
// /messages, asked for as the reader, makes it get what it lacks from other
// servers. It is safe for concurrent use.
type OlderHistory struct {
	client  *homeserver.Client
	options OlderHistoryOptions

	asked *expiring.Map[askedFor, struct{}] // not to be asked for again yet

	mu     sync.Mutex
	byRoom map[string]*asking
}

// askedFor is the hash of a room and a page token.
type askedFor [sha256.Size]byte

// An asking is a question that is under way. Err is set when done is closed.
type asking struct {
	done chan struct{}
	err  error
}

// NewOlderHistory returns an OlderHistory that has asked nothing yet.
func NewOlderHistory(client *homeserver.Client, options OlderHistoryOptions) *OlderHistory {
	if options.AtOnce <= 0 {
		options.AtOnce = 8
	}
	if options.Pause <= 0 {
		options.Pause = 30 * time.Second
	}
	if options.Timeout <= 0 {
		options.Timeout = 8 * time.Second
	}
	return &OlderHistory{
		client: client, options: options,
		asked: expiring.New[askedFor, struct{}](maxAsked), byRoom: map[string]*asking{},
	}
}

// Backfill implements [Backfill]. While somebody asks for history of the room it
// waits for that instead.
func (h *OlderHistory) Backfill(ctx context.Context, room string, reader Reader, before matrix.PageToken, limit int) error {
	if reader.AccessToken == "" {
		return errNoAccessToken
	}
	ctx, cancel := context.WithTimeout(ctx, h.options.Timeout)
	defer cancel()
	a, first, err := h.begin(room, before.String())
	switch {
	case err != nil:
		return err
	case first:
		user := ""
		if reader.AppService {
			user = reader.UserID
		}
		a.err = h.client.OlderHistory(ctx, reader.AccessToken, user, room, before.String(), limit)
		h.end(room, a)
		return a.err
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return fmt.Errorf("wait for older history: %w", context.Cause(ctx))
	}
}

// begin returns the asking for the room that is under way, or else a new one, the
// caller's first, which the caller ends.
func (h *OlderHistory) begin(room, before string) (a *asking, first bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a, ok := h.byRoom[room]; ok {
		return a, false, nil
	}
	key := askedFor(sha256.Sum256([]byte(room + "\x00" + before)))
	if _, asked := h.asked.Get(key); asked {
		return nil, false, errAskedJustNow
	}
	if len(h.byRoom) >= h.options.AtOnce {
		return nil, false, errTooManyAsk
	}
	h.asked.Put(key, struct{}{}, h.options.Pause)
	a = &asking{done: make(chan struct{})}
	h.byRoom[room] = a
	return a, true, nil
}

func (h *OlderHistory) end(room string, a *asking) {
	h.mu.Lock()
	delete(h.byRoom, room)
	h.mu.Unlock()
	close(a.done)
}
