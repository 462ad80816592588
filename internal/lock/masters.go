package lock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"lethe/internal/redisdb"
)

// masters are the independent Redis masters, as used by one attempt to take a lock
// or lease and then by that lock or lease. More than half of them decide.
//
// This is safe because a reader's lease is on a quorum that had no writer, and a
// writer has its mutex on a quorum that had no readers. The two quorums share a
// master, and on that master one of the two came first: either the writer saw the
// lease, or the reader saw the writer.
type masters struct {
	nodes   []node
	names   *redisdb.Names
	timeout time.Duration // of one command
}

// A node is one master.
type node struct {
	client redis.UniversalClient
	health *health
	index  int // in health

	// When a quorum has decided, slow commands to the other masters may still run
	// or wait to run. The command that gives a lock back must not overtake the one
	// that takes it. So turn is held during each command, and over is set by the
	// command that gives back.
	turn  sync.Mutex
	over  bool
	asked bool // whether any command was sent
}

// errOver is the error of a command after the lock or lease was given back.
var errOver = errors.New("given back")

func newMasters(clients []redis.UniversalClient, names *redisdb.Names, health *health, timeout time.Duration) *masters {
	m := &masters{nodes: make([]node, len(clients)), names: names, timeout: timeout}
	for i, client := range clients {
		m.nodes[i].client, m.nodes[i].health, m.nodes[i].index = client, health, i
	}
	return m
}

func (m *masters) quorum() int { return len(m.nodes)/2 + 1 }

// undecided reports whether a quorum is impossible after so many failures.
func (m *masters) undecided(failures int) bool { return failures > len(m.nodes)-m.quorum() }

// A question is a command that a master answers with yes or no. The answer is
// invalid if there is an error.
type question func(context.Context, redis.UniversalClient) (bool, error)

// ask sends a question to every master at once and reports whether a quorum says
// yes. It returns as soon as that is certain. The other commands may then run for
// up to twice the timeout, because each also waits for its turn. If too few
// masters answer, the error wraps ErrUnavailable, or ErrRefused, and their errors.
//
// ask does not end with ctx: a cancelled command may have taken effect, and would
// look like a failure of Redis.
func (m *masters) ask(ctx context.Context, q question) (bool, error) {
	return m.vote(ctx, q, false)
}

// giveBack is an ask that undoes earlier ones. It is the last.
func (m *masters) giveBack(ctx context.Context, q question) (bool, error) {
	return m.vote(ctx, q, true)
}

func (m *masters) vote(ctx context.Context, q question, last bool) (bool, error) {
	ctx = context.WithoutCancel(ctx)
	if len(m.nodes) == 1 { // no need for a goroutine
		yes, err := m.nodes[0].ask(ctx, m.timeout, q, last)
		if err != nil {
			err = undecidable(err)
		}
		return yes, err
	}
	type answer struct {
		yes bool
		err error
	}
	answers := make(chan answer, len(m.nodes))
	for i := range m.nodes {
		go func() {
			yes, err := m.nodes[i].ask(ctx, m.timeout, q, last)
			answers <- answer{yes, err}
		}()
	}
	var yes, no int
	var failures []error
	for range m.nodes {
		switch a := <-answers; {
		case a.err != nil:
			failures = append(failures, a.err)
		case a.yes:
			yes++
		default:
			no++
		}
		switch {
		case yes == m.quorum():
			return true, nil
		case m.undecided(len(failures)):
			return false, undecidable(failures...)
		case m.undecided(no):
			return false, nil
		}
	}
	return false, nil
}

func (n *node) ask(ctx context.Context, timeout time.Duration, q question, last bool) (bool, error) {
	n.turn.Lock()
	defer n.turn.Unlock()
	if err := n.begin(last); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	yes, err := q(ctx, n.client)
	n.health.record(n.index, err)
	return yes && err == nil, err
}

// begin returns an error if a command must not be sent. The caller holds turn.
func (n *node) begin(last bool) error {
	if n.over && !last {
		return errOver
	}
	n.over = n.over || last
	// A command that gives back is sent even to a master that does not answer.
	if !(last && n.asked) && n.health.skip(n.index) {
		return errSkipped
	}
	n.asked = true
	return nil
}

// mutex returns a redsync mutex on all masters. Like ask, its methods return as
// soon as the outcome is certain, so that a black-holed master costs no time.
func (m *masters) mutex(name string, expiry time.Duration) *redsync.Mutex {
	pools := make([]redsyncredis.Pool, len(m.nodes))
	for i := range m.nodes {
		pools[i] = pool{&m.nodes[i], m.timeout}
	}
	return redsync.New(pools...).NewMutex(name,
		redsync.WithExpiry(expiry),
		redsync.WithDriftFactor(clockDrift),
		redsync.WithFailFast(true))
}

// denied translates an error of the mutex. It returns ErrTaken if enough masters
// answered and too few said yes. Otherwise the error wraps ErrUnavailable or ErrRefused.
func (m *masters) denied(err error) error {
	if errors.Is(err, redsync.ErrFailed) || errors.Is(err, redsync.ErrExtendFailed) { // too late
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if failed := failures(err); m.undecided(len(failed)) {
		return undecidable(failed...)
	}
	return ErrTaken
}

// failures returns the errors of the masters that failed, without those that said no.
func failures(err error) []error {
	switch err := any(err).(type) { // not errors.As: each branch of the tree counts
	case *redsync.RedisError:
		return []error{err}
	case interface{ Unwrap() []error }:
		var failed []error
		for _, err := range err.Unwrap() {
			failed = append(failed, failures(err)...)
		}
		return failed
	}
	return nil
}

// undecidable returns the error of masters of which too few gave an answer. If one of
// them may answer later, it makes sense to ask again.
func undecidable(failures ...error) error {
	sentinel := ErrRefused
	for _, failure := range failures {
		if !redisdb.IsRefusal(failure) {
			sentinel = ErrUnavailable
		}
	}
	return fmt.Errorf("%w: %w", sentinel, errors.Join(failures...))
}

// A pool adapts a node to redsync. Each command takes its turn and has its own
// timeout. redsync cancels the running commands when a quorum has decided. Without
// a pool the third master would neither get a lock nor release it.
type pool struct {
	node    *node
	timeout time.Duration
}

// Get implements redsync's Pool.
func (p pool) Get(ctx context.Context) (redsyncredis.Conn, error) {
	p.node.turn.Lock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.timeout)
	inner, err := goredis.NewPool(p.node.client).Get(ctx)
	if err != nil {
		cancel()
		p.node.turn.Unlock()
		return nil, err
	}
	return conn{inner, cancel, p.node}, nil
}

type conn struct {
	redsyncredis.Conn
	cancel context.CancelFunc
	node   *node
}

// SetNX implements redsync's Conn. It takes the mutex.
func (c conn) SetNX(name, value string, expiry time.Duration) (bool, error) {
	if err := c.node.begin(false); err != nil {
		return false, err
	}
	taken, err := c.Conn.SetNX(name, value, expiry)
	c.node.health.record(c.node.index, err)
	return taken, err
}

// Eval implements redsync's Conn. It extends the mutex or gives it back.
func (c conn) Eval(script *redsyncredis.Script, keysAndArgs ...any) (any, error) {
	// Only an extension has an expiry after the key and the owner's value.
	if err := c.node.begin(len(keysAndArgs) == 2); err != nil {
		return nil, err
	}
	status, err := c.Conn.Eval(script, keysAndArgs...)
	c.node.health.record(c.node.index, err)
	return status, err
}

// Close implements redsync's Conn. redsync calls it once.
func (c conn) Close() error {
	defer c.node.turn.Unlock()
	defer c.cancel()
	return c.Conn.Close()
}

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
