package lock

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	redsyncredis "github.com/go-redsync/redsync/v4/redis"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
)

// masters are the independent Redis masters as one attempt at a lock or lease,
// and then that, uses them. What more than half of them say is so.
//
// Why that is safe: a reader's lease is on a quorum where there was no writer,
// and a writer has found a quorum, where the mutex is its own, without readers.
// The two have a master in common, and there one of them came first: either the
// writer saw the lease, or the reader saw the writer.
type masters struct {
	nodes   []node
	timeout time.Duration // of one command
}

// A node is one of them.
type node struct {
	client redis.UniversalClient
	health *health
	index  int // in health

	// What is under way, or not even begun, when a quorum has decided may be
	// slow. Giving back must not overtake taking: so turn is held during each
	// command, and over is set by the one that gives back.
	turn  sync.Mutex
	over  bool
	asked bool // anything
}

// errOver is the error of a command that comes after what was taken, or was to
// be, has been given back.
var errOver = errors.New("given back")

func newMasters(clients []redis.UniversalClient, health *health, timeout time.Duration) *masters {
	m := &masters{nodes: make([]node, len(clients)), timeout: timeout}
	for i, client := range clients {
		m.nodes[i].client, m.nodes[i].health, m.nodes[i].index = client, health, i
	}
	return m
}

func (m *masters) quorum() int { return len(m.nodes)/2 + 1 }

// undecided reports whether so many failures keep a quorum from being found.
func (m *masters) undecided(failures int) bool { return failures > len(m.nodes)-m.quorum() }

// A question is a command that a master answers with yes or no; beside an error
// the answer counts for nothing.
type question func(context.Context, redis.UniversalClient) (bool, error)

// ask puts a question to every master at once and reports whether a quorum says
// yes. It returns as soon as that is certain; what is still under way then goes
// on for at most twice the timeout, once for its turn to come. When too few
// masters answer the error wraps ErrUnavailable and their errors.
//
// It does not end with ctx: a command that is cut short may have done its work,
// and looks as if Redis had failed.
func (m *masters) ask(ctx context.Context, q question) (bool, error) {
	return m.vote(ctx, q, false)
}

// giveBack is an ask that undoes what others did. Nothing is asked after it.
func (m *masters) giveBack(ctx context.Context, q question) (bool, error) {
	return m.vote(ctx, q, true)
}

func (m *masters) vote(ctx context.Context, q question, last bool) (bool, error) {
	ctx = context.WithoutCancel(ctx)
	if len(m.nodes) == 1 { // no need for a goroutine
		yes, err := m.nodes[0].ask(ctx, m.timeout, q, last)
		if err != nil {
			err = unavailable(err)
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
			return false, unavailable(errors.Join(failures...))
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
	n.health.note(n.index, err)
	return yes && err == nil, err
}

// begin returns why a command is not to be sent, if so. It is called with turn
// held.
func (n *node) begin(last bool) error {
	if n.over && !last {
		return errOver
	}
	n.over = n.over || last
	// What may have been taken is given back, however long that takes.
	if !(last && n.asked) && n.health.rests(n.index) {
		return errResting
	}
	n.asked = true
	return nil
}

// mutex returns a redsync mutex on all masters. Like ask it returns as soon as
// the outcome is certain, so that a black-holed master costs nothing.
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

// denied returns an error of the mutex as what it means: ErrTaken when enough
// masters answered, but too few of them yes; else it wraps ErrUnavailable.
func (m *masters) denied(err error) error {
	tooLate := errors.Is(err, redsync.ErrFailed) || errors.Is(err, redsync.ErrExtendFailed)
	if tooLate || m.undecided(failures(err)) {
		return unavailable(err)
	}
	return ErrTaken
}

// failures counts the masters that failed, as opposed to saying no.
func failures(err error) int {
	switch err := any(err).(type) { // not errors.As: each branch of the tree counts
	case *redsync.RedisError:
		return 1
	case interface{ Unwrap() []error }:
		sum := 0
		for _, err := range err.Unwrap() {
			sum += failures(err)
		}
		return sum
	}
	return 0
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }

// A pool is a node as redsync uses it. Each command takes its turn and has its
// own time: redsync ends the context of those that are under way when a quorum
// has decided, and then the third master would neither learn of a lock nor
// forget it.
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

// SetNX implements redsync's Conn: it takes the mutex.
func (c conn) SetNX(name, value string, expiry time.Duration) (bool, error) {
	if err := c.node.begin(false); err != nil {
		return false, err
	}
	taken, err := c.Conn.SetNX(name, value, expiry)
	c.node.health.note(c.node.index, err)
	return taken, err
}

// Eval implements redsync's Conn: it extends the mutex, or gives it back.
func (c conn) Eval(script *redsyncredis.Script, keysAndArgs ...any) (any, error) {
	// An extension has an expiry beside the key and the owner's value.
	if err := c.node.begin(len(keysAndArgs) == 2); err != nil {
		return nil, err
	}
	status, err := c.Conn.Eval(script, keysAndArgs...)
	c.node.health.note(c.node.index, err)
	return status, err
}

// Close implements redsync's Conn; redsync closes each once.
func (c conn) Close() error {
	defer c.node.turn.Unlock()
	defer c.cancel()
	return c.Conn.Close()
}
