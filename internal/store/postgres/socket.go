package postgres

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// answerTime is longer than most statements take, and shorter than what waits for them.
const answerTime = 10 * time.Second

// A socket is the network connection of a session. While the session waits for an answer,
// the socket asks the server, on another connection, whether it is at work on one. If not,
// the statement or its answer was lost on the way. A firewall or a proxy between them may
// have forgotten the connection without closing it: then the session would wait for ever.
type socket struct {
	net.Conn

	// lookout is nil until the session is set up. Another goroutine may read from the socket
	// by then, since a slow write makes pgx read in the background.
	lookout atomic.Pointer[lookout]

	// reads is odd while a read waits.
	reads atomic.Int64
}

// A lookout is how a socket looks whether the server is at work.
type lookout struct {
	timer   *time.Timer // calls look
	after   time.Duration
	asks    *pgxpool.Pool
	backend int64 // the session's process at the server
}

// dialSocket is a dialer that returns sockets.
func dialSocket(dial func(context.Context, string, string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &socket{Conn: conn}, nil
	}
}

// watchSocket gives the session's socket its lookout, whose timer it sets.
func watchSocket(conn *pgx.Conn, l *lookout) {
	under := conn.PgConn().Conn()
	if encrypted, ok := under.(*tls.Conn); ok {
		under = encrypted.NetConn()
	}
	s, ok := under.(*socket)
	if !ok {
		return
	}
	l.timer = time.AfterFunc(l.after, s.look)
	l.timer.Stop()
	s.lookout.Store(l)
}

// Read implements [net.Conn].
func (s *socket) Read(b []byte) (int, error) {
	if l := s.lookout.Load(); l != nil {
		s.reads.Add(1)
		l.timer.Reset(l.after)
		defer func() {
			l.timer.Stop()
			s.reads.Add(1)
		}()
	}
	return s.Conn.Read(b)
}

// look closes the socket if the server waits for the session while it waits for the server,
// and otherwise comes back. A look that fails says nothing.
func (s *socket) look() {
	l, read := s.lookout.Load(), s.reads.Load()
	if l == nil || read%2 == 0 {
		return // the answer has just come
	}
	ctx, cancel := context.WithTimeout(context.Background(), watchTime)
	defer cancel()
	var isLost bool
	err := l.asks.QueryRow(ctx, isNotAtWork, l.backend, (l.after / 2).Milliseconds()).Scan(&isLost)
	switch {
	case s.reads.Load() != read:
	case err == nil && isLost:
		_ = s.Close()
	default:
		l.timer.Reset(l.after)
	}
}

// isNotAtWork reports whether the session of the process $1 is gone, or waits for its client
// and has not begun anything for $2 ms. The state is NULL if the role may not see it. A session
// that has received a part of a batch is active while it waits for the rest, and so is one
// whose answer does not arrive.
const isNotAtWork = `
	SELECT NOT EXISTS (
		SELECT FROM pg_stat_activity a
		WHERE a.pid = $1::bigint::int
		  AND (a.state IS NULL
		       OR a.state NOT IN ('idle', 'idle in transaction', 'idle in transaction (aborted)') AND a.wait_event_type IS DISTINCT FROM 'Client'
		       OR a.state_change > clock_timestamp() - $2::bigint::double precision * '1 ms'::interval))`
