package operator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"lethe/docs"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/dispatch"
	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/operator"
	"lethe/internal/plan"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
	"lethe/internal/store/footprint"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
	"lethe/internal/tasks"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const (
	room  = "!room:x"
	root  = operator.Root
	admin = "@admin:x"
)

// A lab is an api, over a real connection and in the role of an api, and what workers
// need.
type lab struct {
	*storetest.Lab
	url     string
	server  *httptest.Server
	redis   redis.UniversalClient
	worker  *storetest.Lab
	metrics *observe.Metrics
	board   *jobs.Board
	log     *slog.Logger
}

func prepare(ctx context.Context, url string) error {
	if err := migrate.UpEmbedded(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `
		INSERT INTO users (name, admin, is_guest, locked, deactivated) VALUES ('@admin:x', 1, 0, false, 0), ('@user:x', 0, 0, false, 0);
		INSERT INTO access_tokens (id, user_id, token) VALUES (1, '@admin:x', 'admin'), (2, '@user:x', 'user')`)
	return errors.Join(err, conn.Close(ctx))
}

func setup(t *testing.T) *lab { return setupWith(t, operator.Options{}) }

// setupWith is setup with options, which the functions change last.
func setupWith(t *testing.T, options operator.Options, changes ...func(*operator.Options)) *lab {
	t.Helper()
	url := devstacktest.Database(t, "operator", prepare)
	l := &lab{Lab: storetest.OnAs(t, url, schema.API), url: url, worker: storetest.OnAs(t, url, schema.Worker), metrics: observe.NewMetrics(observe.NewRegistry())}
	client, err := redisdb.Open(devstacktest.Redis(t).URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	l.redis = client
	log := slog.New(slog.DiscardHandler)
	l.log, options.Log = log, log
	l.board = jobs.NewBoard(l.DB, client, time.Hour, log)
	options.ServerName = "x"
	options.Changed = func(ctx context.Context, job journal.Job) { l.board.Post(ctx, jobs.StatusOf(job)) }
	dispatcher := dispatch.New(client, nil)
	options.Workers = func(context.Context) (workers []operator.FleetWorker, err error) {
		alive, err := dispatcher.Workers()
		for _, w := range alive {
			workers = append(workers, operator.FleetWorker{Name: w.Name, Started: w.Started.UnixMilli(), Concurrency: w.Concurrency, Running: w.Running})
		}
		return workers, err
	}
	for _, change := range changes {
		change(&options)
	}
	submit := tasks.NewClient(l.DB, client, nil, log)
	purger := purge.New(l.DB, purge.Options{})
	sizes := footprint.Options{ServerName: "x"}
	planner := plan.New(l.DB, plan.Options{Footprint: sizes, Purger: purger})
	o := operator.New(l.DB, submit, planner, footprint.New(l.DB, purger, sizes), options)
	l.server = httptest.NewServer(httpapi.New(l.DB, submit, l.board, httpapi.Options{Log: log, Operator: o, ServerName: "x"}))
	t.Cleanup(l.server.Close)
	return l
}

// work runs a worker and a reconciler until the test has ended.
func (l *lab) work(options tasks.WorkerOptions) {
	l.T.Helper()
	locks, err := redisdb.OpenForLocks(redisURL(l.redis))
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = locks.Close() })
	log := slog.New(slog.DiscardHandler)
	options.ServerName = "x"
	worker := tasks.NewWorker(tasks.Services{
		DB: l.worker.DB, Redis: l.redis, Locks: []redis.UniversalClient{locks}, Board: l.board, Log: log, Metrics: l.metrics,
	}, options)
	reconciler := dispatch.NewReconciler(storetest.OnAs(l.T, l.url, schema.Scheduler).DB, l.redis, l.board, log, l.metrics)
	ctx, cancel := context.WithCancel(l.Ctx)
	var group sync.WaitGroup
	group.Go(func() {
		if err := worker.Run(ctx); err != nil {
			l.T.Error(err)
		}
	})
	group.Go(func() { reconciler.Run(ctx) })
	l.T.Cleanup(func() { cancel(); group.Wait() })
}

func redisURL(client redis.UniversalClient) string {
	options := client.(*redis.Client).Options()
	return fmt.Sprintf("redis://%s/%d", options.Addr, options.DB)
}

// An answer is what the api has answered.
type answer struct {
	status int
	body   string
}

// do sends a request of the admin. The answer must be as the description says.
func (l *lab) do(method, path, body string) answer {
	l.T.Helper()
	return l.as("admin", method, path, body)
}

func (l *lab) as(token, method, path, body string) answer {
	l.T.Helper()
	r, err := http.NewRequestWithContext(l.Ctx, method, l.server.URL+root+path, strings.NewReader(body))
	require.NoError(l.T, err)
	r.Header.Set("Authorization", "Bearer "+token)
	response, err := l.server.Client().Do(r)
	require.NoError(l.T, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(l.T, err)
	requireDescribed(l.T, method, root+path, response.StatusCode, text)
	return answer{response.StatusCode, string(text)}
}

// get decodes the answer to a request, which must succeed.
func get[T any](l *lab, method, path, body string) (decoded T) {
	l.T.Helper()
	a := l.do(method, path, body)
	require.Less(l.T, a.status, 300, a.body)
	require.NoError(l.T, json.Unmarshal([]byte(a.body), &decoded), a.body)
	return decoded
}

// refused requires a refusal with the status and a part of its text.
func (l *lab) refused(status int, text, method, path, body string) {
	l.T.Helper()
	a := l.do(method, path, body)
	require.Equal(l.T, status, a.status, "%s %s %s: %s", method, path, body, a.body)
	require.Contains(l.T, a.body, text, "%s %s %s", method, path, body)
}

// description is the description of the API, and schemas what it says of answers.
var (
	description = sync.OnceValues(func() (any, error) { return jsonschema.UnmarshalJSON(bytes.NewReader(docs.OpenAPI)) })
	schemas     sync.Map // by JSON pointer
)

// requireDescribed fails the test unless the description has such an answer to such a
// request.
func requireDescribed(t testing.TB, method, path string, status int, body []byte) {
	t.Helper()
	document, err := description()
	require.NoError(t, err)
	path, _, _ = strings.Cut(path, "?")
	for template, methods := range document.(map[string]any)["paths"].(map[string]any) {
		pattern := "^" + regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(template), "[^/]+") + "$"
		operation, ok := methods.(map[string]any)[strings.ToLower(method)]
		if !ok || !regexp.MustCompile(pattern).MatchString(path) || strings.HasSuffix(path, "/bulk") && template != path {
			continue
		}
		responses := operation.(map[string]any)["responses"].(map[string]any)
		name := strconv.Itoa(status)
		if responses[name] == nil {
			require.GreaterOrEqual(t, status, 400, "%s %s answers %d, which is not described: %s", method, path, status, body)
			name = "default"
		}
		if responses[name].(map[string]any)["content"].(map[string]any)["application/json"] == nil {
			return // a stream of events, whose reader checks each
		}
		escaped := strings.NewReplacer("~", "~0", "/", "~1").Replace(template)
		requireSchema(t, "/paths/"+escaped+"/"+strings.ToLower(method)+"/responses/"+name+"/content/application~1json/schema", body)
		return
	}
	require.Fail(t, "not described", "%s %s", method, path)
}

// requireSchema fails the test unless the text fits the schema at the pointer.
func requireSchema(t testing.TB, pointer string, text []byte) {
	t.Helper()
	compiled, ok := schemas.Load(pointer)
	if !ok {
		document, err := description()
		require.NoError(t, err)
		compiler := jsonschema.NewCompiler()
		require.NoError(t, compiler.AddResource("file:///openapi.json", document))
		schema, err := compiler.Compile("file:///openapi.json#" + pointer)
		require.NoError(t, err)
		compiled, _ = schemas.LoadOrStore(pointer, schema)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err, "%s", text)
	require.NoError(t, compiled.(*jsonschema.Schema).Validate(value), "%s", text)
}
