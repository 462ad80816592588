package backfill

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"golang.org/x/sync/singleflight"

	"lethe/internal/expiring"
	"lethe/internal/homeserver"
	"lethe/internal/matrix"
	"lethe/internal/messages"
)

// Options are the settings of [New].
type Options struct {
	// MaxRooms is the maximum number of rooms for which the homeserver is asked at the
	// same time. Defaults to 8.
	MaxRooms int

	// Pause is the minimum time between two requests for the same page of a room.
	// Defaults to 30 s.
	Pause time.Duration

	// Timeout is the maximum time that a reader waits. Defaults to 8 s.
	Timeout time.Duration
}

var (
	errNoAccessToken = fmt.Errorf("%w: the reader has no access token", messages.ErrNotAsked)
	errAskedJustNow  = fmt.Errorf("%w: the homeserver was asked just now", messages.ErrNotAsked)
	errTooManyAsk    = fmt.Errorf("%w: too many requests already ask", messages.ErrNotAsked)
)

// maxAsked is the maximum number of pages that are remembered as asked for.
const maxAsked = 10_000

// An OlderHistory is a [messages.Backfill] by the homeserver. A request for a page of the
// homeserver's own /messages, made as the reader, makes the homeserver fetch missing
// history from other servers. It is safe for concurrent use.
type OlderHistory struct {
	client  *homeserver.Client
	options Options

	asked  *expiring.Map[pageKey, struct{}] // the pages that must not be asked for again yet
	byRoom singleflight.Group               // the unfinished requests
	rooms  chan struct{}                    // has a value for each of them
}

// A pageKey is a hash of a room and a page token.
type pageKey [sha256.Size]byte

// New returns an OlderHistory that has asked nothing yet.
func New(client *homeserver.Client, options Options) *OlderHistory {
	if options.MaxRooms <= 0 {
		options.MaxRooms = 8
	}
	if options.Pause <= 0 {
		options.Pause = 30 * time.Second
	}
	if options.Timeout <= 0 {
		options.Timeout = 8 * time.Second
	}
	return &OlderHistory{
		client: client, options: options,
		asked: expiring.New[pageKey, struct{}](maxAsked), rooms: make(chan struct{}, options.MaxRooms),
	}
}

// Backfill implements [messages.Backfill]. While another reader asks for history of the room, it
// waits for that request instead.
func (h *OlderHistory) Backfill(ctx context.Context, room string, reader messages.Reader, before matrix.PageToken, limit int) error {
	if reader.AccessToken == "" {
		return errNoAccessToken
	}
	ctx, cancel := context.WithTimeout(ctx, h.options.Timeout)
	defer cancel()
	done := h.byRoom.DoChan(room, func() (any, error) { return nil, h.ask(ctx, room, reader, before.String(), limit) })
	select {
	case result := <-done:
		return result.Err
	case <-ctx.Done():
		return fmt.Errorf("wait for older history: %w", context.Cause(ctx))
	}
}

// ask asks the homeserver, unless it was asked for the page just now or too many other
// requests ask.
func (h *OlderHistory) ask(ctx context.Context, room string, reader messages.Reader, before string, limit int) error {
	key := pageKey(sha256.Sum256([]byte(room + "\x00" + before)))
	if _, asked := h.asked.Get(key); asked {
		return errAskedJustNow
	}
	select {
	case h.rooms <- struct{}{}:
		defer func() { <-h.rooms }()
	default:
		return errTooManyAsk
	}
	h.asked.Put(key, struct{}{}, h.options.Pause)
	user := ""
	if reader.AppService {
		user = reader.UserID
	}
	return h.client.OlderHistory(ctx, reader.AccessToken, user, room, before, limit)
}
