package postgres_test

import (
	"fmt"
	"net"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
)

// A pooler that shares sessions is refused, however many of them it has at hand. One that
// does not is none of Lethe's business.
func TestPoolersAreTold(t *testing.T) {
	t.Parallel()
	url := devstacktest.EmptyDatabase(t)
	for mode, want := range map[string]error{"transaction": postgres.ErrPooler, "statement": postgres.ErrPooler, "session": nil} {
		for _, sessions := range []int{1, 8} {
			t.Run(fmt.Sprint(mode, sessions), func(t *testing.T) {
				t.Parallel()
				if mode == "session" && sessions == 1 {
					sessions = 2 // the check needs a second connection
				}
				pooled := pgbouncer(t, url, "pool_mode = "+mode, "server_round_robin = 1", "min_pool_size = "+strconv.Itoa(sessions),
					"default_pool_size = "+strconv.Itoa(sessions))
				db, err := postgres.Open(t.Context(), pooled, postgres.Options{MaxConnections: 1})
				require.NoError(t, err)
				defer db.Close()
				err = db.Ping(t.Context())
				require.ErrorIs(t, err, want)
			})
		}
	}
}

// pgbouncer starts a PgBouncer before the database, with more settings, and returns the
// URL of the database behind it.
func pgbouncer(t *testing.T, url string, settings ...string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Skip("pgbouncer is not installed")
	}
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	dir, err := os.MkdirTemp("", "pgbouncer") //nolint // another user must be able to enter it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	text := fmt.Sprintf(`[databases]
%s = host=127.0.0.1 port=%d user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
ignore_startup_parameters = extra_float_digits, search_path
`, config.Database, config.Port, config.User, port)
	for _, setting := range settings {
		text += setting + "\n"
	}
	file := filepath.Join(dir, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	command := exec.CommandContext(t.Context(), program, file)
	if os.Geteuid() == 0 { // it refuses to run as root
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 10*time.Second, 20*time.Millisecond)
	pooled, err := neturl.Parse(url)
	require.NoError(t, err)
	pooled.Host = address
	return pooled.String()
}
