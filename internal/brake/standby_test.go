package brake_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/brake"
	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

// A narrowing passes so many bytes per second from a server to its clients.
type narrowing struct {
	address        string
	bytesPerSecond atomic.Int64
}

// narrow starts a narrowing of the server with that host and port. It ends with the test.
func narrow(t *testing.T, server string) *narrowing {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n := &narrowing{address: listener.Addr().String()}
	ctx, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { n.pass(ctx, client, server) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		group.Wait()
	})
	return n
}

func (n *narrowing) pass(ctx context.Context, client net.Conn, address string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	// What waits in the buffers of the kernel is on its way, and not yet written to a standby.
	_ = server.(*net.TCPConn).SetReadBuffer(1 << 16)
	defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })()
	var up sync.WaitGroup
	up.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
	buffer := make([]byte, 1<<13)
	for {
		read, err := server.Read(buffer)
		if err != nil {
			break
		}
		if rate := n.bytesPerSecond.Load(); rate > 0 {
			// This is the narrow line itself, and waits for nothing.
			time.Sleep(time.Duration(float64(read) / float64(rate) * float64(time.Second)))
		}
		if _, err := client.Write(buffer[:read]); err != nil {
			break
		}
	}
	_ = client.Close()
	up.Wait()
}

// A follower is a server that writes, with a standby behind a narrowing.
type follower struct {
	t         *testing.T
	ctx       context.Context
	db        *postgres.DB
	narrowing *narrowing
	standby   *pgx.Conn

	written  []place
	greatest time.Duration
}

// A place is how far the server was at a time.
type place struct {
	at    time.Time
	bytes int64
}

func follow(t *testing.T) *follower {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	server, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	at := server.URL("postgres")
	require.NoError(t, migrate.UpEmbedded(ctx, at))
	db, err := postgres.Open(ctx, at, postgres.Options{ApplicationName: "lethe worker"})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	standby, err := server.StartStandby(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })
	conn, err := pgx.Connect(ctx, standby.URL("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	parsed, err := url.Parse(at)
	require.NoError(t, err)
	f := &follower{t: t, ctx: ctx, db: db, narrowing: narrow(t, parsed.Host), standby: conn}
	parsed.Host = f.narrowing.address
	_, err = conn.Exec(ctx, fmt.Sprintf(`ALTER SYSTEM SET primary_conninfo = '%s'`, parsed.String()+"&application_name=far"))
	require.NoError(t, err)
	_, err = conn.Exec(ctx, `SELECT pg_reload_conf()`)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		var state string
		err := db.QueryRow(ctx, `SELECT state FROM pg_stat_replication WHERE application_name = 'far'`).Scan(&state)
		return err == nil && state == "streaming"
	}, time.Minute, 20*time.Millisecond)
	return f
}

// write writes WAL in small batches for the time, and returns how many bytes it wrote per
// second. Between two batches it asks the brake.
func (f *follower) write(d time.Duration, b *brake.Brake) (rate float64) {
	f.t.Helper()
	started, bytes := time.Now(), 0
	for time.Since(started) < d {
		_, err := f.db.Exec(f.ctx, `SELECT pg_logical_emit_message(true, 'test', repeat('x', 50000))`)
		require.NoError(f.t, err)
		bytes += 50_000
		f.watch()
		if err := b.Pause(f.ctx, true); err != nil {
			var yield jobs.YieldError
			require.ErrorAs(f.t, err, &yield)
			require.Regexp(f.t, `^brake: standby far is [0-9.]+ s behind$`, yield.WaitsFor)
		}
	}
	return float64(bytes) / time.Since(started).Seconds()
}

// watch notes how long ago the server was where the standby is.
func (f *follower) watch() {
	f.t.Helper()
	var written, replayed int64
	require.NoError(f.t, f.db.QueryRow(f.ctx, `SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint`).Scan(&written))
	now := time.Now()
	require.NoError(f.t, f.standby.QueryRow(f.ctx, `SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint`).Scan(&replayed))
	f.written = append(f.written, place{now, written})
	for _, p := range f.written {
		if p.bytes > replayed {
			f.greatest = max(f.greatest, now.Sub(p.at))
			break
		}
	}
}

// A standby that takes a fifth of what is written stays near with a brake, and falls behind
// without.
func TestBrakeKeepsAStandbyNear(t *testing.T) {
	t.Parallel()
	f := follow(t)
	soft, hard := 1.0, 3.0
	_, err := control.New(f.db).SetBrakeLimit(f.ctx, control.BrakeLimit{Signal: string(brake.StandbySeconds), Soft: &soft, Hard: &hard, Who: "test"})
	require.NoError(t, err)
	full := f.write(2*time.Second, nil)
	f.narrowing.bytesPerSecond.Store(int64(full / 5))
	b := brake.New(f.db, brake.Options{BatchTime: 50 * time.Millisecond})
	watching, stop := context.WithCancel(f.ctx)
	var group sync.WaitGroup
	group.Go(func() { b.Watch(watching) })

	f.written, f.greatest = nil, 0
	braked := f.write(10*time.Second, b)
	near := f.greatest
	stop()
	group.Wait()

	f.written, f.greatest = nil, 0
	f.write(15*time.Second, nil)
	t.Logf("written per second: %.1f MB, with the brake %.1f MB; the standby was %s behind with the brake, and %s without", full/1e6, braked/1e6, near, f.greatest)
	require.Less(t, near, 8*time.Second)
	require.Greater(t, f.greatest, 10*time.Second, "without a brake it falls behind")
	require.Greater(t, braked, full/50, "jobs go on")
}
