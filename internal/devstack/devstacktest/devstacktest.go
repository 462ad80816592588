package devstacktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lethe/internal/devstack"
)

// timeout bounds each thing that a test asks for here. It is far more than any
// of them takes, also on a busy machine.
const timeout = 2 * time.Minute

// buildTimeout is the same for building the programs, of which two are large.
const buildTimeout = 10 * time.Minute

// The test process's one of each, made by the first test that asks and removed
// by Main.
var (
	mainRuns  atomic.Bool
	postgres  = sync.OnceValues(startPostgres)
	started   atomic.Pointer[devstack.Postgres] // what postgres returned
	binaries  = sync.OnceValues(buildBinaries)
	built     atomic.Pointer[string] // what binaries returned
	databases atomic.Int64           // for names

	templatesMu sync.Mutex
	templates   = map[string]func() (string, error){} // by label
)

// Main is the body of a package's TestMain: it runs the tests, stops what they
// shared, fails if they left goroutines behind (the options say which are none
// of their fault), and exits.
func Main(m *testing.M, options ...goleak.Option) {
	mainRuns.Store(true)
	code := m.Run()
	var errs []error
	if server := started.Load(); server != nil {
		errs = append(errs, server.Close())
	}
	if folder := built.Load(); folder != nil {
		errs = append(errs, os.RemoveAll(*folder))
	}
	if code == 0 { // a test that failed may well have left some
		errs = append(errs, goleak.Find(options...))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "after the tests:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Postgres returns the server that all tests of the process share; Main stops
// it. A test that restarts it disturbs those that run in parallel: it starts
// one of its own with [devstack.StartPostgres].
func Postgres(t testing.TB) *devstack.Postgres {
	t.Helper()
	needMain(t)
	server, err := postgres()
	must(t, err)
	return server
}

// EmptyDatabase returns the URL of a new empty database, which is dropped when
// the test has ended.
func EmptyDatabase(t testing.TB) string {
	t.Helper()
	return database(t, "")
}

// Database returns the URL of a new database, which is dropped when the test
// has ended. It is a copy of one that prepare makes once per test process for
// each template label: prepare gets the URL of an empty database, and leaves no
// connection to it behind. If prepare fails, so does every test that asks.
func Database(t testing.TB, template string, prepare func(ctx context.Context, url string) error) string {
	t.Helper()
	return cloneOf(t, "prepared: "+template, func(ctx context.Context, server *devstack.Postgres, name string) error {
		return prepare(ctx, server.URL(name))
	})
}

// Restored returns the URL of a new database with the contents of a file of
// pg_dump's custom format, which is dropped when the test has ended. The file
// is read once per test process.
func Restored(t testing.TB, dumpFile string) string {
	t.Helper()
	return cloneOf(t, "restored: "+dumpFile, func(ctx context.Context, server *devstack.Postgres, name string) error {
		return server.Restore(ctx, name, dumpFile)
	})
}

// Redis returns a server for this test alone, which it may flush, pause, kill
// and restart. It is closed when the test has ended.
func Redis(t testing.TB) *devstack.Redis {
	t.Helper()
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	return server
}

// RedisCluster returns a Cluster of three masters for this test alone. It is
// closed when the test has ended.
func RedisCluster(t testing.TB) *devstack.RedisCluster {
	t.Helper()
	cluster, err := devstack.StartRedisCluster(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, cluster.Close()) })
	return cluster
}

// RedisSentinel returns a master, a replica and a sentinel for this test alone.
// They are closed when the test has ended.
func RedisSentinel(t testing.TB) *devstack.RedisSentinel {
	t.Helper()
	sentinel, err := devstack.StartRedisSentinel(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, sentinel.Close()) })
	return sentinel
}

// Shared returns the path of a file in the folder shared that lies beside the
// repository: fixtures too large to be part of it. Where the file is not there
// the test is skipped.
func Shared(t testing.TB, path ...string) string {
	t.Helper()
	root, err := repository()
	must(t, err)
	file := filepath.Join(append([]string{filepath.Dir(root), "shared"}, path...)...)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("%s is not there: the fixtures are not part of the repository", file)
	}
	return file
}

// Binaries returns the folder of the programs below cmd, which are built once
// per test process; Main removes it.
func Binaries(t testing.TB) string {
	t.Helper()
	needMain(t)
	folder, err := binaries()
	must(t, err)
	return folder
}

// database returns the URL of a new copy of the template, or of a new empty
// database if that is "".
func database(t testing.TB, template string) string {
	t.Helper()
	server := Postgres(t)
	name := newName("test")
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	must(t, server.CreateDatabase(ctx, name, template))
	t.Cleanup(func() {
		// The test's own context has ended.
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		must(t, server.DropDatabase(ctx, name))
	})
	return server.URL(name)
}

func cloneOf(t testing.TB, label string, fill func(ctx context.Context, server *devstack.Postgres, name string) error) string {
	t.Helper()
	server := Postgres(t)
	templatesMu.Lock()
	template := templates[label]
	if template == nil {
		template = sync.OnceValues(func() (string, error) {
			// Not the context of the test that happened to come first.
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			name := newName("template")
			if err := server.CreateDatabase(ctx, name, ""); err != nil {
				return "", err
			}
			return name, fill(ctx, server, name)
		})
		templates[label] = template
	}
	templatesMu.Unlock() // tests with other templates need not wait for this one
	name, err := template()
	must(t, err)
	return database(t, name)
}

func newName(kind string) string { return kind + "_" + strconv.FormatInt(databases.Add(1), 10) }

func startPostgres() (*devstack.Postgres, error) {
	server, err := devstack.StartPostgres(context.Background(), devstack.PostgresOptions{})
	started.Store(server)
	return server, err
}

func buildBinaries() (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	folder, err := os.MkdirTemp("", "lethe-binaries-")
	if err != nil {
		return "", fmt.Errorf("build the programs: %w", err)
	}
	built.Store(&folder)
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", folder, "./cmd/...")
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, output)
	}
	return folder, nil
}

// repository returns the folder of go.mod, above that of the package whose
// tests run.
func repository() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for folder := start; ; folder = filepath.Dir(folder) {
		if _, err := os.Stat(filepath.Join(folder, "go.mod")); err == nil {
			return folder, nil
		}
		if folder == filepath.Dir(folder) {
			return "", fmt.Errorf("find the repository: there is no go.mod above %s", start)
		}
	}
}

// needMain fails the test if nobody would clean up after it.
func needMain(t testing.TB) {
	t.Helper()
	if !mainRuns.Load() {
		t.Fatal("the package needs func TestMain(m *testing.M) { devstacktest.Main(m) }")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
