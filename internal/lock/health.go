package lock

import (
	"errors"
	"net"
	"sync"
	"time"
)

// errSkipped is the error of a command that is not sent, because the master did
// not answer the last one.
var errSkipped = errors.New("did not answer a moment ago")

// A health records which masters of a Locker do not answer. A black-holed master
// would cost its timeout whenever the others disagree, and a connection for every
// command. So it is skipped, except for one command after each rest. The masters
// that are not skipped are always a quorum.
type health struct {
	rest time.Duration

	mu      sync.Mutex
	resting []time.Time // the end of each master's rest; zero if it answers
}

func newHealth(masters int, rest time.Duration) *health {
	return &health{rest: rest, resting: make([]time.Time, masters)}
}

// skip reports whether a command must not be sent to the master. After the rest,
// the first caller may send one.
func (h *health) skip(master int) bool {
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

// record records the result of a command.
func (h *health) record(master int, err error) {
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
