package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"lethe/internal/observe"
	"lethe/internal/wire"
)

const (
	// lookInterval is the time between two looks at what a page shows.
	lookInterval = time.Second

	// beatInterval is the longest time without a line, and the interval at which the session
	// is checked. Proxies end connections on which nothing comes.
	beatInterval = 10 * time.Second

	// followTime is how long a page is followed by one request. A browser makes the next one
	// by itself.
	followTime = 10 * time.Minute

	// writeTime bounds the write of one look. A browser that reads nothing is left.
	writeTime = 30 * time.Second

	// maxFollowers and maxFollowersOfUser bound the pages that are followed at once. A
	// browser has six connections to a server by HTTP/1.1, and needs some for other pages.
	maxFollowers       = 100
	maxFollowersOfUser = 4
)

var errFollowers = &wire.Error{
	Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED", Text: "Too many pages are followed", RetryAfter: 10_000,
}

// followers counts the pages that are followed.
type followers struct {
	mu     sync.Mutex
	byUser map[string]int
	all    int
}

// enter reports whether one more page may be followed. Then the caller calls leave.
func (f *followers) enter(user string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all >= maxFollowers || f.byUser[user] >= maxFollowersOfUser {
		return false
	}
	f.all++
	f.byUser[user]++
	return true
}

func (f *followers) leave(user string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all--
	if f.byUser[user]--; f.byUser[user] == 0 {
		delete(f.byUser, user)
	}
}

// A look returns the part of a page that changes, and whether it will not change any more.
type look func(ctx context.Context) (part []byte, over bool, err error)

// follower lets users with a session follow a page, as server-sent events: "part" has the
// part of the page, and "end" says why no more will come. It ends with the session.
func (c *Console) follower(of func(*visit) look) func(*visit) error {
	return func(v *visit) error {
		if err := c.identify(v); err != nil {
			return err
		}
		if v.r.Method == http.MethodHead { // whether it could be followed
			_, _, err := c.lookOnce(v.r.Context(), of(v))
			return err
		}
		if !c.followers.enter(v.session.User) {
			return errFollowers
		}
		defer c.followers.leave(v.session.User)
		ends := time.Now().Add(followTime)
		if v.session.Ends.Before(ends) {
			ends = v.session.Ends
		}
		ctx, cancel := context.WithDeadline(v.sent, ends)
		defer cancel()
		v.r = v.r.WithContext(ctx)
		v.w.readUntil(ends.Add(writeTime))
		return c.follow(v, of(v))
	}
}

// follow sends what a look returns when it has changed. The first look decides about the
// status of the answer.
func (c *Console) follow(v *visit, look look) error {
	ctx := v.r.Context()
	var sent [sha256.Size]byte
	var wrote, checked time.Time
	checked = time.Now()
	for {
		part, over, err := c.lookOnce(ctx, look)
		if err != nil && (wrote.IsZero() || ctx.Err() == nil && !isRefusal(err)) {
			return err
		}
		if wrote.IsZero() {
			v.w.Header().Set("Content-Type", "text/event-stream")
			v.w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
		}
		var text []byte
		switch hash := sha256.Sum256(part); {
		case err == nil && hash != sent:
			sent, text = hash, event("part", part)
		case time.Since(wrote) > beatInterval:
			text = []byte(": still here\n\n")
		}
		if over {
			text = append(text, event("end", []byte("over"))...)
		}
		if time.Since(checked) > beatInterval {
			checked = time.Now()
			if err := c.identify(v); errors.Is(err, errSignedOut) {
				over, text = true, event("end", []byte("signed out"))
			} else if err != nil {
				return err // nothing is shown to a session that cannot be checked
			}
		}
		if len(text) > 0 {
			if err := v.send(text); err != nil {
				return nil // the browser has gone
			}
			wrote = time.Now()
		}
		if over {
			return nil
		}
		select {
		case <-ctx.Done():
			if v.sent.Err() == nil && !time.Now().Before(v.session.Ends) {
				_ = v.send(event("end", []byte("signed out"))) // the browser may have gone
			}
			return nil
		case <-observe.Draining(ctx):
			return nil // the browser goes on with another process
		case <-time.After(lookInterval):
		}
	}
}

// lookOnce looks with the timeout of a page.
func (c *Console) lookOnce(ctx context.Context, look look) (part []byte, over bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	return look(ctx)
}

// isRefusal reports whether an error may pass by itself.
func isRefusal(err error) bool {
	var refused *wire.Error
	return errors.As(err, &refused) && refused.RetryAfter > 0
}

// event returns a server-sent event. Each line of the data has its own field.
func event(name string, data []byte) []byte {
	text := fmt.Appendf(nil, "event: %s\n", name)
	for line := range bytes.SplitSeq(bytes.ReplaceAll(data, []byte("\r"), nil), []byte("\n")) {
		text = append(append(append(text, "data: "...), line...), '\n')
	}
	return append(text, '\n')
}

// send writes events at once.
func (v *visit) send(text []byte) error {
	connection := http.NewResponseController(v.w)
	// Only connections in tests do not support deadlines.
	_ = connection.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := v.w.Write(text); err != nil {
		return fmt.Errorf("send an event: %w", err)
	}
	if err := connection.Flush(); err != nil {
		return fmt.Errorf("send an event: %w", err)
	}
	return nil
}

// shared is a value that many pages show. It is read at most once in a look's interval,
// however many follow it.
type shared[T any] struct {
	turn  sync.Mutex
	value T
	read  time.Time
}

// get returns the value, which is less than a look's interval old, or reads it.
func (s *shared[T]) get(read func() (T, error)) (T, error) {
	s.turn.Lock()
	defer s.turn.Unlock()
	if time.Since(s.read) < lookInterval*9/10 {
		return s.value, nil
	}
	value, err := read()
	if err == nil {
		s.value, s.read = value, time.Now()
	}
	return value, err
}
