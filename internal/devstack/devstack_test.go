package devstack_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
)

// timeout limits every wait of these tests.
const timeout = time.Minute

// asParent makes the test binary act as the process that starts servers and is then
// killed.
const asParent = "LETHE_TEST_DEVSTACK_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(asParent) != "" {
		playParent()
		return
	}
	devstacktest.Main(m)
}

func playParent() {
	ctx := context.Background()
	postgres, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{Dir: filepath.Join(os.Getenv(asParent), "postgres")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	redis, err := devstack.StartRedis(ctx, devstack.RedisOptions{Dir: filepath.Join(os.Getenv(asParent), "redis")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(postgres.URL("postgres"))
	fmt.Println(redis.URL())
	// Wait until we are killed, or until the test process has ended.
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

func TestServersDieWithTheirParent(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	folder := traversable(t)

	parent := exec.CommandContext(ctx, os.Args[0])
	parent.Env = append(os.Environ(), asParent+"="+folder)
	parent.Stderr = os.Stderr
	_, err := parent.StdinPipe()
	require.NoError(t, err)
	stdout, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	lines := bufio.NewScanner(stdout)
	var addresses []string
	for range 2 {
		require.True(t, lines.Scan(), "the parent has started its servers")
		server, err := url.Parse(lines.Text())
		require.NoError(t, err)
		require.True(t, listens(server.Host))
		addresses = append(addresses, server.Host)
	}

	require.NoError(t, parent.Process.Kill())
	require.Error(t, parent.Wait())
	for _, address := range addresses {
		require.Eventually(t, func() bool { return !listens(address) }, timeout, 10*time.Millisecond)
	}

	// A server can start in a directory that a killed process has left.
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(folder, "postgres", "data", "postmaster.pid"))
		return os.IsNotExist(err)
	}, timeout, 10*time.Millisecond)
	postgres, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{Dir: filepath.Join(folder, "postgres")})
	require.NoError(t, err)
	require.NoError(t, postgres.Close())
}

func TestServersAreNotRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can drop what it is")
	}
	ctx := testContext(t)

	var backend int
	conn := connect(t, devstacktest.EmptyDatabase(t))
	require.NoError(t, conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&backend))
	info, err := redisClient(t, devstacktest.Redis(t)).InfoMap(ctx, "server").Result()
	require.NoError(t, err)

	for _, pid := range []string{fmt.Sprint(backend), info["Server"]["process_id"]} {
		status, err := os.ReadFile("/proc/" + pid + "/status")
		require.NoError(t, err)
		for _, line := range strings.Split(string(status), "\n") {
			if strings.HasPrefix(line, "Uid:") || strings.HasPrefix(line, "Gid:") {
				require.NotContains(t, strings.Fields(line), "0")
			}
		}
	}
}

func TestMissingProgramsAreNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{})
	require.ErrorIs(t, err, devstack.ErrMissing)
	require.ErrorContains(t, err, "redis-server is not in PATH")
	require.ErrorContains(t, err, "apt-get install")
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// traversable returns a temporary directory that the servers' user can enter.
func traversable(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "lethe-test-") // other users cannot enter the parent of t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	require.NoError(t, os.Chmod(folder, 0o755))
	return folder
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(testContext(t), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func redisClient(t *testing.T, server *devstack.Redis) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(server.URL())
	require.NoError(t, err)
	options.ContextTimeoutEnabled = true
	options.DialerRetries, options.MaxRetries = 1, -1
	client := redis.NewClient(options)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

func listens(address string) bool {
	conn, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

func TestAbandonedDirectoriesAreRemoved(t *testing.T) {
	t.Setenv("TMPDIR", traversable(t))
	old := time.Now().Add(-time.Hour)
	abandoned := filepath.Join(os.TempDir(), "lethe-redis-1")
	require.NoError(t, os.MkdirAll(filepath.Join(abandoned, "data"), 0o700))
	require.NoError(t, os.Chtimes(abandoned, old, old))
	startingNow := filepath.Join(os.TempDir(), "lethe-redis-2")
	require.NoError(t, os.Mkdir(startingNow, 0o700))
	inUse := devstacktest.Redis(t)
	made, err := filepath.Glob(filepath.Join(os.TempDir(), "lethe-redis-*"))
	require.NoError(t, err)
	require.Len(t, made, 2)
	require.NotContains(t, made, abandoned)
	for _, path := range made {
		if path != startingNow {
			require.NoError(t, os.Chtimes(path, old, old))
		}
	}

	other := devstacktest.Redis(t)
	require.NoError(t, other.Close())
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "lethe-redis-*"))
	require.NoError(t, err)
	require.Equal(t, made, left, "an old directory must stay while its process lives")
	require.NoError(t, inUse.Close())
}
