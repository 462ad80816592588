package besidetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
)

// instance is the name under which the stand-in holds locks. Synapse's are like it.
const instance = "abcde"

// Sessions opens two sessions with the database, as a homeserver's pool keeps them. They
// are closed when the test ends, or by the function.
func Sessions(t *testing.T, database string) (end func()) {
	t.Helper()
	var conns []*pgx.Conn
	for range 2 {
		conns = append(conns, connect(t, database))
	}
	return func() {
		for _, conn := range conns {
			_ = conn.Close(context.WithoutCancel(t.Context()))
		}
	}
}

// connect opens a session with an empty application_name. It is closed when the test ends.
func connect(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(database)
	require.NoError(t, err)
	config.RuntimeParams["application_name"] = ""
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// A Locks holds locks of a homeserver. It serves one goroutine.
type Locks struct {
	t    *testing.T
	conn *pgx.Conn
}

// NewLocks returns a holder of locks, which has a session of its own.
func NewLocks(t *testing.T, database string) *Locks {
	t.Helper()
	return &Locks{t: t, conn: connect(t, database)}
}

// Read takes a lock of a room for reading, and returns its token. It returns the error
// of a lock that a writer has.
func (l *Locks) Read(name, room string) (token string, err error) {
	return l.take(name, room, false)
}

// Write is [Locks.Read] for a lock for writing.
func (l *Locks) Write(name, room string) (token string, err error) { return l.take(name, room, true) }

func (l *Locks) take(name, room string, write bool) (token string, err error) {
	token = jobs.NewID()
	_, err = l.conn.Exec(l.t.Context(), `
		INSERT INTO worker_read_write_locks (lock_name, lock_key, write_lock, instance_name, token, last_renewed_ts)
		VALUES ($1, $2, $3, $4, $5, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)`, name, room, write, instance, token)
	return token, err
}

// Release releases a lock.
func (l *Locks) Release(token string) error {
	_, err := l.conn.Exec(l.t.Context(), `DELETE FROM worker_read_write_locks WHERE token = $1`, token)
	return err
}

// A Row is a row of the stream of invalidations.
type Row struct {
	ID    int64
	Cache string
	Keys  []string
}

// A Listener is a process of a homeserver that listens for invalidations. It reads them
// as Synapse does: rows above the position that it knows, when it hears of a higher one.
type Listener struct {
	t     *testing.T
	conn  *pgx.Conn
	redis redis.UniversalClient
	name  string

	stop  func()
	group sync.WaitGroup

	mu    sync.Mutex
	known int64 // of Lethe
	read  []Row
	heard []string
}

// Listen starts a process that listens on the channel. It asks for positions as a
// process that has just connected does, and answers those that ask, unless it is quiet.
// It stops when the test ends, or by [Listener.Stop].
func Listen(t *testing.T, database string, client redis.UniversalClient, channel string, quiet bool) *Listener {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l := &Listener{t: t, conn: connect(t, database), redis: client, name: channel}
	// What was committed before it began cannot be in its caches.
	require.NoError(t, l.conn.QueryRow(ctx, `
		SELECT coalesce(max(stream_id), 0) FROM cache_invalidation_stream_by_instance`).Scan(&l.known))
	subscription := client.Subscribe(ctx, channel)
	_, err := subscription.Receive(ctx)
	require.NoError(t, err)
	messages := subscription.Channel()
	l.stop = func() {
		cancel()
		_ = subscription.Close()
		l.group.Wait()
	}
	l.group.Go(func() {
		for message := range messages {
			l.hear(ctx, message.Payload, quiet)
		}
	})
	t.Cleanup(l.stop)
	l.publish(ctx, "REPLICATE ")
	return l
}

// Stop ends the process. A second call does nothing.
func (l *Listener) Stop() { l.stop() }

// Read returns the rows of Lethe that the process has read so far.
func (l *Listener) Read() []Row {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Row{}, l.read...)
}

// Heard returns the messages of Lethe so far, and those that ask for positions.
func (l *Listener) Heard() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string{}, l.heard...)
}

func (l *Listener) publish(ctx context.Context, line string) { l.redis.Publish(ctx, l.name, line) }

// hear acts on a message.
func (l *Listener) hear(ctx context.Context, line string, quiet bool) {
	if line == "REPLICATE " && !quiet {
		l.publish(ctx, "POSITION caches master 1 1")
	}
	if !strings.HasPrefix(line, "POSITION caches lethe ") && !strings.HasPrefix(line, `LOCK_RELEASED ["lethe",`) && line != "REPLICATE " {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, strings.TrimSpace(line))
	var before, position int64
	if _, err := fmt.Sscanf(line, "POSITION caches lethe %d %d", &before, &position); err != nil || position <= l.known {
		return
	}
	if before > l.known || l.known > position { // else it believes that there are no rows between
		rows, err := l.conn.Query(ctx, `
			SELECT stream_id, cache_func, keys FROM cache_invalidation_stream_by_instance
			WHERE stream_id > $1 AND instance_name = 'lethe' ORDER BY stream_id`, l.known)
		if err == nil {
			var read []Row
			read, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Row])
			l.read = append(l.read, read...)
		}
		if err != nil {
			if ctx.Err() == nil {
				l.t.Errorf("read invalidations: %v", err)
			}
			return
		}
	}
	l.known = position
}
