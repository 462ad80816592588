package besidetest

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A Recorder stands between a process and PostgreSQL, and records the statements in the
// order in which they were done. It also records what is published through a Redis
// client. It is safe for concurrent use.
type Recorder struct {
	t        *testing.T
	listener net.Listener
	server   string

	group sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn
	done  []string
}

// Record returns a Recorder and the URL of the same database through it. It stops when
// the test ends.
func Record(t *testing.T, database string) (r *Recorder, through string) {
	t.Helper()
	parsed, err := url.Parse(database)
	require.NoError(t, err)
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r = &Recorder{t: t, listener: listener, server: parsed.Host}
	parsed.Host = listener.Addr().String()
	r.group.Go(r.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		r.mu.Lock()
		for _, conn := range r.conns {
			_ = conn.Close()
		}
		r.mu.Unlock()
		r.group.Wait()
	})
	return r, parsed.String()
}

// Done returns what was recorded so far, and forgets it. A statement is its text in one
// line. A commit is "COMMIT after" and the statement before it, and a publish is "PUBLISH"
// and the message.
func (r *Recorder) Done() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := r.done
	r.done = nil
	return done
}

// Only returns the lines of done that contain one of the texts, each as that text. So
// a test can name the statements that it is about.
func Only(done []string, texts ...string) (found []string) {
	for _, line := range done {
		if i := slices.IndexFunc(texts, func(text string) bool { return strings.Contains(line, text) }); i >= 0 {
			found = append(found, texts[i])
		}
	}
	return found
}

// Publishes makes the client record what it publishes, before it is sent.
func (r *Recorder) Publishes(client redis.UniversalClient) { client.AddHook(publishes{r}) }

type publishes struct{ *Recorder }

func (p publishes) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p publishes) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (p publishes) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if args := cmd.Args(); len(args) == 3 && args[0] == "publish" {
			p.add("PUBLISH " + strings.TrimSpace(args[2].(string)))
		}
		return next(ctx, cmd)
	}
}

func (r *Recorder) add(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, line)
}

func (r *Recorder) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(context.WithoutCancel(r.t.Context()), "tcp", r.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		r.conns = append(r.conns, client, server)
		r.mu.Unlock()
		relay := &relayed{
			recorder: r, client: pgproto3.NewBackend(client, client), server: pgproto3.NewFrontend(server, server),
			names: map[string]string{}, portals: map[string]string{},
		}
		end := func() {
			_ = client.Close()
			_ = server.Close()
		}
		r.group.Go(func() {
			defer end()
			_ = relay.requests()
		})
		r.group.Go(func() {
			defer end()
			_ = relay.answers()
		})
	}
}

// relayed is one connection.
type relayed struct {
	recorder *Recorder
	client   *pgproto3.Backend
	server   *pgproto3.Frontend

	names, portals map[string]string // SQL by the name of a prepared statement, and of a portal

	mu      sync.Mutex
	pending []string // statements that are not answered yet, and syncMark for each sync
	last    string   // the last statement that was done
}

// syncMark stands for the end of a pipeline, after which the server skips no more
// statements.
const syncMark = ""

var errUnexpected = errors.New("unexpected message")

// requests passes on what the process sends.
func (c *relayed) requests() error {
	first, err := c.client.ReceiveStartupMessage()
	if err != nil {
		return err
	}
	switch first.(type) {
	case *pgproto3.StartupMessage, *pgproto3.CancelRequest:
	default:
		return errUnexpected
	}
	for message := first; ; {
		c.server.Send(message)
		if err := c.server.Flush(); err != nil {
			return err
		}
		if message, err = c.client.Receive(); err != nil {
			return err
		}
		c.note(message)
	}
}

func (c *relayed) note(message pgproto3.FrontendMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m := message.(type) {
	case *pgproto3.Parse:
		c.names[m.Name] = m.Query
	case *pgproto3.Bind:
		c.portals[m.DestinationPortal] = c.names[m.PreparedStatement]
	case *pgproto3.Execute:
		c.pending = append(c.pending, c.portals[m.Portal])
	case *pgproto3.Query:
		c.pending = append(c.pending, m.String, syncMark)
	case *pgproto3.Sync:
		c.pending = append(c.pending, syncMark)
	}
}

// answers passes on what the server sends.
func (c *relayed) answers() error {
	for {
		message, err := c.server.Receive()
		if err != nil {
			return err
		}
		switch message.(type) {
		case *pgproto3.CommandComplete:
			c.completed()
		case *pgproto3.ReadyForQuery:
			c.synced()
		}
		c.client.Send(message)
		if err := c.client.Flush(); err != nil {
			return err
		}
	}
}

// completed records the statement before the process learns that it is done.
func (c *relayed) completed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) > 0 && c.pending[0] != syncMark {
		line := strings.Join(strings.Fields(c.pending[0]), " ")
		if strings.EqualFold(line, "commit") {
			line = "COMMIT after " + c.last
		}
		c.recorder.add(line)
		c.pending, c.last = c.pending[1:], line
	}
}

// synced drops the statements that the server has skipped after an error.
func (c *relayed) synced() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.pending, syncMark); i >= 0 {
		c.pending = c.pending[i+1:]
	}
}
