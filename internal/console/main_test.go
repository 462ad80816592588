package console_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/access"
	"lethe/internal/console"
	"lethe/internal/console/session"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/httpapi"
	"lethe/internal/operator"
	"lethe/internal/plan"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
	"lethe/internal/store/footprint"
	"lethe/internal/store/migrate"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
	"lethe/internal/tasks"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const (
	root   = console.Root
	cookie = "__Host-lethe_console"
)

func prepare(ctx context.Context, url string) error {
	if err := migrate.UpEmbedded(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `
		INSERT INTO users (name, admin, is_guest, locked, deactivated) VALUES
			('@admin:x', 1, 0, false, 0), ('@other:x', 1, 0, false, 0), ('@user:x', 0, 0, false, 0), ('@guest:x', 0, 1, false, 0),
			('@support:x', 0, 0, false, 0), ('@careful:x', 1, 0, false, 0);
		INSERT INTO access_tokens (id, user_id, token) VALUES
			(1, '@admin:x', 'syt_admin'), (2, '@other:x', 'syt_other'), (3, '@user:x', 'syt_user'), (4, '@guest:x', 'syt_guest'),
			(5, '@support:x', 'syt_support'), (6, '@careful:x', 'syt_careful')`)
	return errors.Join(err, conn.Close(ctx))
}

// A lab is an api with a console, in the role of an api.
type lab struct {
	*storetest.Lab
	server *httptest.Server
	redis  *devstackRedis
	log    *logged
	url    string
}

type devstackRedis struct {
	names *redisdb.Names
	keys  func() []string
}

// logged is what was logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func setup(t *testing.T, api ...func(*operator.Options)) *lab {
	return setupWith(t, changes{api: api})
}

// setupFor is setup with sessions that last for that long.
func setupFor(t *testing.T, lasts time.Duration) *lab { return setupWith(t, changes{lasts: lasts}) }

// changes are what a test has otherwise than others.
type changes struct {
	// lasts is the time of a session. Defaults to an hour.
	lasts time.Duration

	// api are changes of the options of the API. Defaults to none.
	api []func(*operator.Options)

	// timeout is that of the pages. Defaults to that of the console.
	timeout time.Duration

	// trustedProxies are believed. Defaults to none.
	trustedProxies []netip.Prefix

	// database is the URL of a database that has been prepared, and redis that of a Redis.
	// They default to those that tests share.
	database, redis string
}

func setupWith(t *testing.T, with changes) *lab {
	t.Helper()
	url := with.database
	if url == "" {
		url = devstacktest.Database(t, "console", prepare)
	}
	if with.redis == "" {
		with.redis = devstacktest.Redis(t).URL()
	}
	lasts := cmp.Or(with.lasts, time.Hour)
	l := &lab{Lab: storetest.OnAs(t, url, schema.API), log: &logged{}, url: url}
	client, err := redisdb.Open(with.redis)
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	names := redisdb.NamesOf("console" + regexp.MustCompile(`\W`).ReplaceAllString(t.Name(), ""))
	l.redis = &devstackRedis{names, func() []string { return client.Keys(t.Context(), names.ConsoleSession("*")).Val() }}
	log := slog.New(slog.NewTextHandler(l.log, nil))
	submit := tasks.NewClient(l.DB, client, names, log)
	purger := purge.New(l.DB, purge.Options{})
	sizes := footprint.Options{ServerName: "x"}
	options := operator.Options{ServerName: "x", Log: log}
	for _, change := range with.api {
		change(&options)
	}
	api := operator.New(l.DB, submit, plan.New(l.DB, plan.Options{Footprint: sizes, Purger: purger}), footprint.New(l.DB, purger, sizes), options)
	l.server = httptest.NewServer(httpapi.New(l.DB, submit, nil, httpapi.Options{
		Log: log, Operator: api, ServerName: "x", TrustedProxies: with.trustedProxies,
		Console: func(control *access.Control) http.Handler {
			return console.New(control, api, session.New(client, names, lasts), console.Options{
				Log: log, Readers: []string{"@support:x", "@careful:x"}, Timeout: with.timeout,
			})
		},
	}))
	t.Cleanup(l.server.Close)
	t.Cleanup(func() { require.NotContains(t, l.log.String(), "syt_") })
	return l
}

// A browser sends the cookies that it has got, and follows no redirect.
type browser struct {
	l       *lab
	cookies map[string]string
}

func (l *lab) browser() *browser { return &browser{l, map[string]string{}} }

// A page is what the console has answered.
type page struct {
	status int
	header http.Header
	body   string
}

// send sends a request with headers, each of which is a name and a value.
func (b *browser) send(method, path string, form url.Values, headers ...string) page {
	b.l.T.Helper()
	r, err := http.NewRequestWithContext(b.l.Ctx, method, b.l.server.URL+path, strings.NewReader(form.Encode()))
	require.NoError(b.l.T, err)
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := *b.l.server.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.Do(r)
	require.NoError(b.l.T, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(b.l.T, err)
	for _, set := range response.Cookies() {
		b.cookies[set.Name] = set.Value
		if set.MaxAge < 0 {
			delete(b.cookies, set.Name)
		}
	}
	require.NotContains(b.l.T, string(text), "syt_")
	return page{response.StatusCode, response.Header, string(text)}
}

func (b *browser) get(path string) page { return b.send(http.MethodGet, root+path, nil) }

// signedIn returns a browser of the owner of the token.
func (l *lab) signedIn(token string) *browser {
	l.T.Helper()
	b := l.browser()
	p := b.send(http.MethodPost, root+"/sign-in", url.Values{"token": {token}})
	require.Equal(l.T, http.StatusSeeOther, p.status, p.body)
	return b
}

// proof returns what the browser's forms send along.
func (b *browser) proof() string {
	b.l.T.Helper()
	found := regexp.MustCompile(`name="proof" value="([^"]+)"`).FindStringSubmatch(b.get("/jobs").body)
	require.NotNil(b.l.T, found)
	return found[1]
}
