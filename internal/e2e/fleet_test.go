package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
	"lethe/internal/store/migrate"
)

func TestMain(m *testing.M) {
	// The tests mostly wait for processes. An argument on the command line overrides this.
	_ = flag.Set("test.parallel", "12")
	devstacktest.Main(m)
}

// A fleet is a database, a Redis and the Lethe processes on them.
type fleet struct {
	t        *testing.T
	database string
	redis    *devstack.Redis
	env      []string
	token    string
	api      *process
	sql      *pgx.Conn

	// How the api is asked. Without them it is by HTTP.
	client *http.Client
	scheme string
}

// newFleet starts an api on the database, and nothing else yet.
func newFleet(t *testing.T, database, serverName, token string) *fleet {
	t.Helper()
	require.NoError(t, migrate.Up(t.Context(), database))
	f := newFleetWith(t, database, devstacktest.Redis(t))
	f.env, f.token = append(f.env, "LETHE_SERVER_NAME="+serverName), token // the last one counts
	f.api = f.start("api")
	return f
}

// newFleetWith is a fleet of the demo's server on these servers, without a process.
func newFleetWith(t *testing.T, database string, redis *devstack.Redis) *fleet {
	t.Helper()
	f := &fleet{t: t, database: database, redis: redis, token: token}
	f.env = []string{
		"LETHE_DATABASE_URL=" + database,
		"LETHE_REDIS_URL=" + f.redis.URL(),
		"LETHE_SERVER_NAME=" + server,
		"LETHE_SYNAPSE_BESIDE=false",
		"LETHE_API_LISTEN=127.0.0.1:0",
		"LETHE_API_METRICS_LISTEN=127.0.0.1:0",
		"LETHE_ASYNQMON_METRICS_LISTEN=127.0.0.1:0",
		"LETHE_WORKER_LISTEN=127.0.0.1:0",
		"LETHE_SCHEDULER_LISTEN=127.0.0.1:0",
		"LETHE_LOG_FORMAT=json",
	}
	sql, err := pgx.Connect(t.Context(), database)
	require.NoError(t, err)
	t.Cleanup(func() { _ = sql.Close(context.WithoutCancel(t.Context())) })
	f.sql = sql
	return f
}

// A process is one running binary.
type process struct {
	t       *testing.T
	name    string
	cmd     *exec.Cmd
	address string
	exited  chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// metricsAddress returns where the process serves its metrics.
func (p *process) metricsAddress() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if found := regexp.MustCompile(`"metrics_address":"([^"]+)"`).FindSubmatch(p.log.Bytes()); found != nil {
		return string(found[1])
	}
	return p.address // a worker's or scheduler's
}

var listeningAddress = regexp.MustCompile(`"address":"([^"]+)"`)

// start starts a binary, and waits until it listens.
func (f *fleet) start(name string, env ...string) *process {
	f.t.Helper()
	p := &process{t: f.t, name: name, exited: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(devstacktest.Binaries(f.t), name))
	p.cmd.Env = append(append(append([]string{"PATH=" + os.Getenv("PATH")}, f.env...),
		"LETHE_LOG_LEVEL=debug"), env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	require.NoError(f.t, err)
	require.NoError(f.t, p.cmd.Start())

	listening := make(chan string, 1)
	go func() {
		defer close(p.exited)
		listens := false
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if !bytes.Contains(lines.Bytes(), []byte(`"msg":"request"`)) || bytes.Contains(lines.Bytes(), []byte(`"level":"ERROR"`)) {
				p.mu.Lock()
				p.log.Write(append(lines.Bytes(), '\n'))
				p.mu.Unlock()
			}
			if !listens {
				if found := listeningAddress.FindSubmatch(lines.Bytes()); found != nil {
					listens = true
					listening <- string(found[1])
				}
			}
		}
		_ = p.cmd.Wait()
	}()
	f.t.Cleanup(func() {
		p.signal(syscall.SIGCONT)
		p.kill()
		if f.t.Failed() {
			f.t.Logf("log of %s:\n%s", name, p.tail())
		}
	})
	select {
	case p.address = <-listening:
	case <-p.exited:
		require.FailNow(f.t, name+" exited", p.tail())
	case <-time.After(30 * time.Second):
		require.FailNow(f.t, name+" does not listen", p.tail())
	}
	return p
}

func (p *process) signal(signal syscall.Signal) { _ = p.cmd.Process.Signal(signal) }

// kill ends the process with SIGKILL and waits until it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// tail returns the end of the process's log.
func (p *process) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines := strings.Split(p.log.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// ask asks the api, as the admin.
func (f *fleet) ask(method, path string, body any) (int, map[string]any) {
	f.t.Helper()
	encoded, err := json.Marshal(body)
	require.NoError(f.t, err)
	request, err := http.NewRequestWithContext(f.t.Context(), method, cmp.Or(f.scheme, "http")+"://"+f.api.address+path, bytes.NewReader(encoded))
	require.NoError(f.t, err)
	request.Header.Set("Authorization", "Bearer "+f.token)
	response, err := cmp.Or(f.client, http.DefaultClient).Do(request)
	require.NoError(f.t, err)
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	require.NoError(f.t, err)
	answer := map[string]any{}
	require.NoError(f.t, json.Unmarshal(raw, &answer), "%s", raw)
	return response.StatusCode, answer
}

// purge submits a history purge and returns its id.
func (f *fleet) purge(room string, body any) string {
	f.t.Helper()
	status, answer := f.ask(http.MethodPost, "/_synapse/admin/v1/purge_history/"+room, body)
	require.Equal(f.t, http.StatusOK, status, "%v", answer)
	return answer["purge_id"].(string)
}

// status returns what the api says of a purge.
func (f *fleet) status(id string) map[string]any {
	f.t.Helper()
	code, answer := f.ask(http.MethodGet, "/_synapse/admin/v1/purge_history_status/"+id, nil)
	require.Equal(f.t, http.StatusOK, code, "%v", answer)
	return answer
}

// await waits for the ends of purges, all of which must be complete, by themselves or
// by another.
func (f *fleet) await(within time.Duration, ids ...string) {
	f.t.Helper()
	for _, id := range ids {
		f.eventually(within, func() bool { return f.status(id)["status"] != "active" }, "purge %s has not ended", id)
		status := f.status(id)
		delete(status, "absorbed_by") // another purge of the room may have done its work
		delete(status, "progress")
		require.Equal(f.t, map[string]any{"status": "complete"}, status)
	}
}

// eventually polls until the condition holds, less and less often: some wait for
// a minute, and each look costs those that are waited for.
func (f *fleet) eventually(within time.Duration, condition func() bool, message string, args ...any) {
	f.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	pause := 20 * time.Millisecond
	next := time.NewTimer(pause)
	defer next.Stop()
	for !condition() {
		select {
		case <-next.C:
			pause = min(pause+pause/10, 250*time.Millisecond)
			next.Reset(pause)
		case <-deadline.C:
			require.FailNow(f.t, fmt.Sprintf(message, args...), "not within %v\n%s", within, f.rows())
		}
	}
}

// rows shows the jobs, for a failed test's sake.
func (f *fleet) rows() string {
	var rows string
	err := f.sql.QueryRow(f.t.Context(), `
		SELECT coalesce(string_agg(to_jsonb(j)::text, E'\n'), 'no jobs')
		FROM (SELECT * FROM lethe.jobs ORDER BY state, id LIMIT 10) j`).Scan(&rows)
	if err != nil {
		return err.Error()
	}
	return rows
}

// job returns a column of a job's row.
func query[T any](f *fleet, sql string, args ...any) T {
	f.t.Helper()
	var v T
	require.NoError(f.t, f.sql.QueryRow(f.t.Context(), sql, args...).Scan(&v))
	return v
}

// names are those of the fleet's deployment.
func (f *fleet) names() *redisdb.Names {
	f.t.Helper()
	return redisdb.NamesOf(query[string](f, `SELECT id FROM lethe.deployment`))
}

// batches returns how many batches a job has committed.
func (f *fleet) batches(id string) int {
	return query[int](f, `SELECT coalesce((checkpoint->>'batches')::int, 0) FROM lethe.jobs WHERE id = $1`, id)
}
