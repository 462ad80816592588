package postgres_test

import (
	"context"
	"io"
	"net"
	neturl "net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
)

// A connection that has fallen silent, as behind a firewall that has forgotten it, costs a
// query some seconds, and not all of its time.
func TestSilentConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	database, err := neturl.Parse(devstacktest.EmptyDatabase(t))
	require.NoError(t, err)
	before, silence, _ := silentProxy(t, database.Host)
	database.Host = before
	db, err := postgres.Open(t.Context(), database.String(), postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	require.NoError(t, db.Ping(t.Context()))
	silence()
	unused := time.NewTimer(1100 * time.Millisecond) // a connection used within a second is not checked
	defer unused.Stop()
	<-unused.C
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	var one int
	require.NoError(t, db.QueryRow(ctx, `SELECT 1`).Scan(&one))
}

// A statement whose connection falls silent fails as if it had been closed, and does not
// wait for ever.
func TestStatementOnASilentConnectionFails(t *testing.T) {
	t.Parallel()
	database, err := neturl.Parse(devstacktest.EmptyDatabase(t))
	require.NoError(t, err)
	before, silence, _ := silentProxy(t, database.Host)
	database.Host = before
	db, err := postgres.Open(t.Context(), database.String(), postgres.Options{AnswerTime: 200 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	for name, begin := range map[string]func() *postgres.LazyTx{
		"before it begins": func() *postgres.LazyTx { return db.LazyTx(nil) },
		"inside it": func() *postgres.LazyTx {
			tx := db.LazyTx(nil)
			_, err := tx.Exec(t.Context(), `SELECT 1`)
			require.NoError(t, err)
			return tx
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		require.NoError(t, db.Ping(ctx)) // so that the pool does not check the connection
		tx := begin()
		silence()
		_, err := tx.Exec(ctx, `SELECT 2`)
		tx.Rollback(ctx)
		require.True(t, postgres.Unreachable(err), "%s: %v", name, err)
		require.NoError(t, ctx.Err(), name)
	}
}

// A connection may fall silent when a part of a batch has passed. The server has begun to
// work on that, and calls itself active while it waits for the rest.
func TestBatchOfWhichAPartIsLostFails(t *testing.T) {
	t.Parallel()
	database, err := neturl.Parse(devstacktest.EmptyDatabase(t))
	require.NoError(t, err)
	before, _, silenceAfterPart := silentProxy(t, database.Host)
	database.Host = before
	db, err := postgres.Open(t.Context(), database.String(), postgres.Options{AnswerTime: 200 * time.Millisecond, MaxConnections: 1})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	batch := func() error {
		return db.InOneTrip(ctx, func(pipeline *pgx.Batch) {
			pipeline.Queue(`SELECT $1::int`, 1)
			pipeline.Queue(`SELECT length($1::text)`, strings.Repeat("x", 100_000))
		})
	}
	require.NoError(t, batch(), "the statements are prepared")
	silenceAfterPart()
	err = batch()
	require.True(t, postgres.Unreachable(err), "%v", err)
	require.NoError(t, ctx.Err())
}

// A connection may fall silent while its session is set up.
func TestSessionThatFallsSilentWhileItIsSetUpFails(t *testing.T) {
	t.Parallel()
	database, err := neturl.Parse(devstacktest.EmptyDatabase(t))
	require.NoError(t, err)
	before, silence, _ := silentProxy(t, database.Host)
	database.Host = before
	db, err := postgres.Open(t.Context(), database.String(), postgres.Options{SetUp: func(ctx context.Context, conn *pgx.Conn) error {
		silence()
		_, err := conn.Exec(ctx, `SELECT 1`)
		return err
	}})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = db.Exec(ctx, `SELECT 2`)
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "it does not wait until the caller gives up")
}

// A statement that takes its time is not disturbed.
func TestStatementAtWorkIsWaitedFor(t *testing.T) {
	t.Parallel()
	db, err := postgres.Open(t.Context(), devstacktest.EmptyDatabase(t), postgres.Options{AnswerTime: 100 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	_, err = db.Exec(t.Context(), `SELECT pg_sleep(1)`)
	require.NoError(t, err)
}

// silentProxy starts a proxy of the server that ends with the test. Its connections pass
// nothing any more once silence was called; later ones do. After silenceAfterPart one more part
// of what a client sends passes, 16 KiB or less.
func silentProxy(t *testing.T, server string) (address string, silence, silenceAfterPart func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var group sync.WaitGroup
	var era atomic.Int64
	var armed atomic.Bool
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		group.Wait()
	})
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = client.Close(), upstream.Close() })
			begun := era.Load()
			for _, way := range [][2]net.Conn{{client, upstream}, {upstream, client}} {
				group.Go(func() {
					buffer := make([]byte, 1<<14)
					for {
						n, err := way[0].Read(buffer)
						if err != nil {
							_ = way[1].Close()
							return
						}
						if era.Load() != begun {
							_, _ = io.Copy(io.Discard, way[0])
							return
						}
						if _, err := way[1].Write(buffer[:n]); err != nil {
							return
						}
						if way[0] == client && armed.CompareAndSwap(true, false) {
							era.Add(1)
						}
					}
				})
			}
		}
	})
	return listener.Addr().String(), func() { era.Add(1) }, func() { armed.Store(true) }
}

// After a peak of work the pool closes what it does not need any more.
func TestUnusedConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	url := devstacktest.EmptyDatabase(t)
	db, err := postgres.Open(t.Context(), url, postgres.Options{ApplicationName: "lethe peak", UnusedTime: 200 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	var peak []*pgxpool.Conn
	for range 3 {
		conn, err := db.Acquire(t.Context())
		require.NoError(t, err)
		peak = append(peak, conn)
	}
	watcher, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, watcher.Close(context.WithoutCancel(t.Context()))) }()
	sessions := func() (n int) {
		require.NoError(t, watcher.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lethe peak'`).Scan(&n))
		return n
	}
	require.Equal(t, 3, sessions())
	for _, conn := range peak {
		conn.Release()
	}
	require.Eventually(t, func() bool { return sessions() == 0 }, time.Minute, 10*time.Millisecond)
}
