package messages

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/store/migrate"
	"lethe/internal/store/storetest"
)

// TestACommitThatACrashHasLostIsNotShown lets a process of the server crash, after which the
// server recovers without being started again. A commit that was asynchronous is lost then,
// although readers have seen it, and another transaction gets its id and the place of its
// row.
func TestACommitThatACrashHasLostIsNotShown(t *testing.T) {
	t.Parallel()
	server, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Close()) })
	url := server.URL("postgres")
	require.NoError(t, migrate.UpEmbedded(t.Context(), url))
	h := houseAt(t, url, Options{CacheBytes: 1 << 20})
	if storetest.Version(t, h.conn) < 15_00_00 {
		t.Skip("before PostgreSQL 15 a cache does not notice a recovery")
	}
	plain := New(h.db, Options{})
	for _, setting := range []string{
		// Nothing but a commit that waits for it writes the log.
		`wal_writer_delay = '10s'`, `wal_writer_flush_after = '100MB'`, `autovacuum = off`, `checkpoint_timeout = '1h'`,
	} {
		h.requireExec(`ALTER SYSTEM SET ` + setting)
	}
	h.requireExec(`SELECT pg_reload_conf()`)
	r := &changingRoom{writtenRoom: h.newRoom("!room:x", "shared")}
	id := r.write("m.room.message", "@owner:x", nil, `{"body":"text 0000"}`)
	request := Request{Room: r.id, Reader: Reader{UserID: "@owner:x"}, Backwards: true, Limit: 10}
	write := func(text string) (version string) {
		t.Helper()
		require.NoError(t, h.conn.QueryRow(h.ctx, `
			UPDATE event_json SET json = regexp_replace(json, 'text [a-z0-9]+', $2) WHERE event_id = $1
			RETURNING xmin::text || ' ' || ctid::text`, id, "text "+text).Scan(&version))
		return version
	}
	reused := false
	for n := 0; n < 10 && !reused; n++ {
		// The server has written all before.
		h.requireExec(`CHECKPOINT`)
		require.Eventually(t, func() bool {
			write(fmt.Sprintf("before%d", n)) // which also wakes the writer of the log, if it sleeps for longer
			var flushed bool
			require.NoError(t, h.conn.QueryRow(h.ctx, `SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()`).Scan(&flushed))
			return flushed
		}, time.Minute, 10*time.Millisecond)
		lost := write(fmt.Sprintf("lost%d", n))
		require.Contains(t, requireSamePages(t, h.ctx, plain, h.Messages, request), id)

		var pid int
		require.NoError(t, h.conn.QueryRow(h.ctx, `SELECT pg_backend_pid()`).Scan(&pid))
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(t, func() bool {
			conn, err := pgx.Connect(h.ctx, url)
			if err != nil || conn.QueryRow(h.ctx, `SELECT pg_backend_pid()`).Scan(&pid) != nil {
				return false
			}
			_ = h.conn.Close(context.WithoutCancel(h.ctx))
			h.conn = conn
			return true
		}, time.Minute, 20*time.Millisecond)
		for range 20 {
			if version := write(fmt.Sprintf("after%d", n)); version == lost {
				reused = true
				break
			}
		}
		requireSamePages(t, h.ctx, plain, h.Messages, request)
	}
	require.True(t, reused, "or the test would prove nothing")
}
