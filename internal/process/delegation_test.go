package process

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/mas/mastest"
	"lethe/internal/monitor"
)

// A delegating is a homeserver that delegates its accounts, or does not.
type delegating struct {
	asked  atomic.Int32
	status atomic.Int32 // of auth_metadata
}

func (d *delegating) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case strings.HasSuffix(r.URL.Path, "/v1/auth_metadata"):
		d.asked.Add(1)
		w.WriteHeader(int(d.status.Load()))
		_, _ = io.WriteString(w, `{"issuer":"https://mas.lethe.test/","errcode":"M_UNKNOWN"}`)
	case token == "delegated":
		_, _ = io.WriteString(w, `{"user_id":"@delegated:lethe.test"}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`)
	}
}

func newDelegating(t *testing.T, status int) (*delegating, string) {
	t.Helper()
	d := &delegating{}
	d.status.Store(int32(status))
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	return d, server.URL
}

// start runs an api and returns its URL, its log and its end.
func start(t *testing.T, settings config.Config, purpose config.Purpose) (url string, records <-chan record, stop func() error) {
	t.Helper()
	log, records := newLog()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, settings, log, monitor.New, purpose) }()
	url = "http://" + requireLine(t, records, "listening")["address"]
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return url, records, stop
}

// requireWhoami asks whose a token is, or with user "" for what admins may read.
func requireWhoami(t *testing.T, api, token string, status int, user string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, api+"/_synapse/admin/v1/rooms", http.NoBody)
	require.NoError(t, err)
	if user != "" {
		request.URL.Path = "/_matrix/client/v3/account/whoami"
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := newClient(t, nil).Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, status, response.StatusCode, "%s", body)
	if user == "" {
		return
	}
	var who struct {
		UserID string `json:"user_id"`
	}
	require.NoError(t, json.Unmarshal(body, &who))
	require.Equal(t, user, who.UserID)
}

// withAdmin adds a server admin whose token is in the database.
func withAdmin(t *testing.T, settings config.Config) {
	t.Helper()
	requireExec(t, settings.Database.URL, `
		INSERT INTO users (name, admin) VALUES ('@admin:lethe.test', 1), ('@delegated:lethe.test', 0);
		INSERT INTO access_tokens (id, user_id, token) VALUES (1, '@admin:lethe.test', 'in-the-database')`)
}

func TestRunWithMAS(t *testing.T) {
	t.Parallel()
	service := mastest.New()
	service.Issue("m-admin", "delegated", mastest.API+" "+mastest.Admin)
	service.Issue("m-user", "delegated", mastest.API)
	settings := newSettings(t)
	settings.MAS = config.MAS{URL: service.Start(t), Secret: mastest.Secret}
	withAdmin(t, settings)
	api, _, stop := start(t, settings, config.ForAPI)
	requireWhoami(t, api, "m-admin", 200, "@delegated:lethe.test")
	requireWhoami(t, api, "m-admin", 200, "")
	requireWhoami(t, api, "m-user", 403, "")
	requireWhoami(t, api, "in-the-database", 401, "")
	require.NoError(t, stop())

	pages, _, stop := start(t, settings, config.ForAsynqmon)
	for token, want := range map[string]int{"m-admin": http.StatusOK, "m-user": http.StatusForbidden, "in-the-database": http.StatusUnauthorized} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, pages+"/", http.NoBody)
		require.NoError(t, err)
		request.SetBasicAuth("any", token)
		response, err := newClient(t, nil).Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, want, response.StatusCode, token)
	}
	require.NoError(t, stop())
}

func TestOpenKnowsMAS(t *testing.T) {
	t.Parallel()
	settings := newSettings(t)
	settings.MAS = config.MAS{URL: "http://127.0.0.1:1", Secret: "secret"}
	for purpose, want := range map[config.Purpose]bool{
		config.ForAPI: true, config.ForAsynqmon: true, config.ForWorker: false, config.ForScheduler: false,
	} {
		p, _ := requireOpen(t, settings, purpose)
		require.Equal(t, want, p.mas != nil)
	}
	settings.Auth, settings.Homeserver.URL = config.AuthHomeserver, "http://127.0.0.1:1"
	p, _ := requireOpen(t, settings, config.ForAPI)
	require.Nil(t, p.mas)
	require.Nil(t, p.delegation)
	settings.Auth, settings.MAS.Secret = config.AuthMAS, "a b"
	log, _ := newLog()
	_, err := open(t.Context(), settings, log, nil, []config.Purpose{config.ForAPI})
	require.ErrorContains(t, err, "the secret of Matrix Authentication Service")
}

// A homeserver that keeps its accounts does not change who is asked.
func TestAutoIsTheDatabase(t *testing.T) {
	t.Parallel()
	homeserver, url := newDelegating(t, http.StatusNotFound)
	settings := newSettings(t)
	settings.Homeserver.URL = url
	withAdmin(t, settings)
	for _, auth := range []string{config.AuthAuto, config.AuthDatabase} {
		settings.Auth = auth
		before := homeserver.asked.Load()
		api, _, stop := start(t, settings, config.ForAPI)
		require.Equal(t, before+1, homeserver.asked.Load())
		requireWhoami(t, api, "in-the-database", 200, "")
		requireWhoami(t, api, "delegated", 401, "")
		require.NoError(t, stop())
	}
}

func TestAutoAsksAHomeserverThatDelegates(t *testing.T) {
	t.Parallel()
	_, url := newDelegating(t, http.StatusOK)
	settings := newSettings(t)
	settings.Homeserver.URL = url
	withAdmin(t, settings)
	api, _, stop := start(t, settings, config.ForAPI)
	requireWhoami(t, api, "delegated", 200, "")
	requireWhoami(t, api, "delegated", 200, "@delegated:lethe.test")
	requireWhoami(t, api, "in-the-database", 502, "") // the homeserver knows no such request
	require.NoError(t, stop())
}

func TestDatabaseIsRefusedWhereAccountsAreDelegated(t *testing.T) {
	t.Parallel()
	_, url := newDelegating(t, http.StatusOK)
	settings := newSettings(t)
	settings.Homeserver.URL, settings.Auth = url, config.AuthDatabase
	for _, purpose := range []config.Purpose{config.ForAPI, config.ForAsynqmon} {
		log, _ := newLog()
		err := Run(t.Context(), settings, log, monitor.New, purpose)
		require.ErrorIs(t, err, ErrDelegated)
	}
	// Others check no token.
	p, _ := requireOpen(t, settings, config.ForWorker)
	require.Nil(t, p.delegation)
}

// A homeserver that cannot tell is asked again.
func TestAutoAsksAgain(t *testing.T) {
	t.Parallel()
	homeserver, url := newDelegating(t, http.StatusInternalServerError)
	settings := newSettings(t)
	settings.Homeserver.URL = url
	withAdmin(t, settings)
	api, records, stop := start(t, settings, config.ForAPI)
	requireWhoami(t, api, "in-the-database", 200, "")
	homeserver.status.Store(http.StatusOK)
	requireLine(t, records, "the homeserver delegates its accounts, so it is asked about access tokens")
	requireWhoami(t, api, "delegated", 200, "")
	requireWhoami(t, api, "in-the-database", 502, "")
	require.NoError(t, stop())
}

// A process ends whose homeserver says later that the database is wrong.
func TestDatabaseIsRefusedLater(t *testing.T) {
	t.Parallel()
	homeserver, url := newDelegating(t, http.StatusInternalServerError)
	settings := newSettings(t)
	settings.Homeserver.URL, settings.Auth = url, config.AuthDatabase
	log, records := newLog()
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), settings, log, monitor.New, config.ForAPI) }()
	requireLine(t, records, "listening")
	homeserver.status.Store(http.StatusOK)
	require.ErrorIs(t, <-ended, ErrDelegated)
}

// The waits between two questions are bounded, and there are few lines in the log.
func TestDelegationIsWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, records := newLog()
		errAway := errors.New("away")
		var mu sync.Mutex // the watch asks in another goroutine
		asked, last := 0, time.Time{}
		delegates, answer := false, errAway
		d := &delegation{log: log, ask: func(context.Context) (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			asked, last = asked+1, time.Now()
			return delegates, answer
		}}
		require.NoError(t, d.look(t.Context()))
		ended := make(chan error, 1)
		go func() { ended <- d.watch(t.Context()) }()
		says := func(nowDelegates bool, now error) {
			mu.Lock()
			defer mu.Unlock()
			delegates, answer = nowDelegates, now
		}
		count := func() (int, time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			return asked, time.Since(last)
		}
		after := func(d time.Duration) int {
			before, _ := count()
			time.Sleep(d)
			synctest.Wait()
			now, _ := count()
			return now - before
		}
		require.Equal(t, 1, after(2*time.Second))
		require.InDelta(t, 60, after(time.Hour), 12)
		_, since := count()
		require.Less(t, since, 2*time.Minute)
		require.Len(t, records, 1, "it is said once")

		says(false, nil) // it keeps its accounts
		require.NotZero(t, after(2*time.Minute))
		require.InDelta(t, 6, after(time.Hour), 2)
		says(false, errAway)
		require.NotZero(t, after(13*time.Minute))
		require.Len(t, records, 2)
		require.False(t, d.delegates.Load())
		says(true, nil)
		require.NotZero(t, after(2*time.Minute))
		require.True(t, d.delegates.Load())
		require.NoError(t, <-ended)
		require.Zero(t, after(time.Hour))
	})
}

func TestDelegationStops(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	log, records := newLog()
	d := &delegation{log: log, refuse: true, ask: func(ctx context.Context) (bool, error) {
		cancel()
		return true, nil
	}}
	require.NoError(t, d.look(ctx))
	require.NoError(t, d.watch(ctx))
	require.Empty(t, records)
}
