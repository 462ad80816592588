package lock

import (
	"errors"
	"net"
	"sync"
	"time"
)

// errResting is the error of a command that is not sent to a master which did
// not answer the one before.
var errResting = errors.New("did not answer a moment ago")

// A health knows which masters of a Locker do not answer. A black-holed one
// would cost its timeout each time that the others disagree, and a connection
// each time that anything is asked. So it is left alone, but for one command in
// a while. Never so many are that the others are no quorum.
type health struct {
	rest time.Duration

	mu      sync.Mutex
	resting []time.Time // until when, by master; zero while it answers
}

func newHealth(masters int, rest time.Duration) *health {
	return &health{rest: rest, resting: make([]time.Time, masters)}
}

// rests reports whether the master is to be left alone. When it has rested the
// first caller is to try.
func (h *health) rests(master int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	switch until := h.resting[master]; {
	case until.IsZero():
		return false
	case now.Before(until):
		return true
	}
	h.resting[master] = now.Add(h.rest)
	return false
}

// note takes down how a command ended.
func (h *health) note(master int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		h.resting[master] = time.Time{}
		return
	}
	others := 0
	for i, until := range h.resting {
		if i != master && !until.IsZero() {
			others++
		}
	}
	if others < (len(h.resting)-1)/2 {
		h.resting[master] = time.Now().Add(h.rest)
	}
}
