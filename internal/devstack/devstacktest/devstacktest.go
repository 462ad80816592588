package devstacktest

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"lethe/internal/devstack"
)

// timeout limits each operation. It is much longer than any of them takes, even on a
// busy machine.
const timeout = 2 * time.Minute

// buildTimeout limits the build of the programs, which may have to compile all
// dependencies.
const buildTimeout = 10 * time.Minute

// checksVariable is the environment variable for the number of rapid's checks.
const checksVariable = "LETHE_TEST_CHECKS"

// programsVariable is the environment variable that names the folder with built
// programs.
const programsVariable = "LETHE_TEST_PROGRAMS"

// The shared resources of the test process. The first test that needs one creates it,
// and Main removes it.
var (
	mainRuns  atomic.Bool
	postgres  = sync.OnceValues(startPostgres)
	started   atomic.Pointer[devstack.Postgres] // the result of postgres
	binaries  = sync.OnceValues(buildBinaries)
	built     atomic.Pointer[string] // the result of binaries
	databases atomic.Int64           // for names

	templatesMu sync.Mutex
	templates   = map[string]func() (string, error){} // by label
)

// Main is the body of a package's TestMain. It runs the tests, stops the shared
// servers, fails if goroutines are left, and exits. The options name goroutines to
// ignore.
//
// Main sets the number of rapid's checks to twelve, because each check makes many
// requests to a server. LETHE_TEST_CHECKS or -rapid.checks set another number. It also sets
// how many tests run at once to six, because they wait for servers most of the time, unless
// the package has set another number. -parallel overrides both.
func Main(m *testing.M, options ...goleak.Option) {
	mainRuns.Store(true)
	if parallel := flag.Lookup("test.parallel"); parallel.Value.String() == parallel.DefValue {
		_ = flag.Set("test.parallel", "6") // it is a number
	}
	if flag.Lookup("rapid.checks") != nil { // where a test imports it
		if err := flag.Set("rapid.checks", cmp.Or(os.Getenv(checksVariable), "20")); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", checksVariable, err)
			os.Exit(2)
		}
	}
	code := m.Run()
	var errs []error
	if server := started.Load(); server != nil {
		errs = append(errs, server.Close())
	}
	if folder := built.Load(); folder != nil {
		errs = append(errs, os.RemoveAll(*folder))
	}
	if code == 0 { // a failed test may leave goroutines
		errs = append(errs, goleak.Find(options...))
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, "after the tests:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Postgres returns the server that all tests of the process share. Main stops it. A test
// must not restart it, because other tests run in parallel: such a test starts its own
// with [devstack.StartPostgres].
func Postgres(t testing.TB) *devstack.Postgres {
	t.Helper()
	needMain(t)
	server, err := postgres()
	must(t, err)
	return server
}

// EmptyDatabase returns the URL of a new empty database. It is dropped when the test
// ends.
func EmptyDatabase(t testing.TB) string {
	t.Helper()
	return database(t, "")
}

// Database returns the URL of a new database, which is dropped when the test ends. It is
// a copy of a template. For each template label, prepare fills the template once per
// test process: it gets the URL of an empty database, and must close its connections. If
// prepare fails, every test with the label fails.
func Database(t testing.TB, template string, prepare func(ctx context.Context, url string) error) string {
	t.Helper()
	return cloneOf(t, "prepared: "+template, func(ctx context.Context, server *devstack.Postgres, name string) error {
		return prepare(ctx, server.URL(name))
	})
}

// Restored returns the URL of a new database with the contents of a file in pg_dump's
// custom format. It is dropped when the test ends. The file is read once per test
// process.
func Restored(t testing.TB, dumpFile string) string {
	t.Helper()
	return cloneOf(t, "restored: "+dumpFile, func(ctx context.Context, server *devstack.Postgres, name string) error {
		return server.Restore(ctx, name, dumpFile)
	})
}

// Redis returns a server only for this test, which may flush, pause, kill and restart
// it. It is closed when the test ends.
func Redis(t testing.TB) *devstack.Redis {
	t.Helper()
	server, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{})
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	return server
}

// RedisCluster returns a Cluster of three masters only for this test. It is closed when
// the test ends.
func RedisCluster(t testing.TB) *Cluster {
	t.Helper()
	cluster, err := startCluster(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, cluster.Close()) })
	return cluster
}

// RedisSentinel returns a master, a replica and a sentinel only for this test. They are
// closed when the test ends.
func RedisSentinel(t testing.TB) *Sentinel {
	t.Helper()
	sentinel, err := startSentinel(t.Context())
	must(t, err)
	t.Cleanup(func() { must(t, sentinel.Close()) })
	return sentinel
}

// Shared returns the path of a file in the folder "shared" beside the repository, which
// has fixtures that are too large for it. If the file is missing, the test is skipped.
func Shared(t testing.TB, path ...string) string {
	t.Helper()
	root, err := repository()
	must(t, err)
	file := filepath.Join(append([]string{filepath.Dir(root), "shared"}, path...)...)
	if _, err := os.Stat(file); err != nil {
		t.Skipf("%s is missing: the fixtures are not part of the repository", file)
	}
	return file
}

// Binaries returns the folder with the built programs of cmd. It is the absolute path in
// LETHE_TEST_PROGRAMS, which make test sets after building them once for all packages.
// Otherwise Binaries builds them once per test process, and Main removes them.
func Binaries(t testing.TB) string {
	t.Helper()
	needMain(t)
	if folder := os.Getenv(programsVariable); folder != "" {
		return folder
	}
	folder, err := binaries()
	must(t, err)
	return folder
}

// database returns the URL of a new copy of the template, or of a new empty database if
// template is "".
func database(t testing.TB, template string) string {
	t.Helper()
	server := Postgres(t)
	name := newName("test")
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	must(t, server.CreateDatabase(ctx, name, template))
	t.Cleanup(func() {
		// The test's context has ended.
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
			limit := timeout
			if _, is := t.(*testing.B); is {
				limit = 30 * time.Minute // a benchmark may ask for millions of rows
			}
			// Not the context of the first test, because others share the template.
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			name := newName("template")
			if err := server.CreateDatabase(ctx, name, ""); err != nil {
				return "", err
			}
			if err := fill(ctx, server, name); err != nil {
				return "", err
			}
			return name, addStrangers(ctx, server.URL(name))
		})
		templates[label] = template
	}
	templatesMu.Unlock() // tests with other templates do not wait
	name, err := template()
	must(t, err)
	url := database(t, name)
	must(t, adopt(t.Context(), url))
	return url
}

// adopt makes a copy of a database one for which its deployment's id was made, so that
// Lethe's processes start on it.
func adopt(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("adopt a copied database: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, `
		DO $$
		BEGIN
			IF to_regclass('lethe.deployment') IS NOT NULL THEN
				UPDATE lethe.deployment SET system_identifier = NULL,
				       database_oid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database());
			END IF;
		END $$`)
	if err != nil {
		return fmt.Errorf("adopt a copied database: %w", err)
	}
	return nil
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

// repository returns the folder of go.mod, which is above the package under test.
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
			return "", fmt.Errorf("find the repository: no go.mod above %s", start)
		}
	}
}

// needMain fails the test if the package does not use Main, which cleans up.
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
