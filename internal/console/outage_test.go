package console_test

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
)

// A gate stands before a server. While it is shut, it refuses connections as a server that was
// stopped; while it is stuck, it passes nothing on, as one that hangs.
type gate struct {
	address string

	mu    sync.Mutex
	shut  bool
	stuck chan struct{} // closed while nothing is stuck
	open  map[net.Conn]bool
}

func newGate(t *testing.T, server string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	free := make(chan struct{})
	close(free)
	g := &gate{address: listener.Addr().String(), stuck: free, open: map[net.Conn]bool{}}
	var group sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		g.set(true, false)
		group.Wait()
	})
	group.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			if !g.enter(client, upstream) {
				continue
			}
			for _, pair := range [][2]net.Conn{{upstream, client}, {client, upstream}} {
				group.Go(func() { g.pass(pair[0], pair[1]) })
			}
		}
	})
	return g
}

// enter reports whether the gate lets connections in, and closes them if it does not.
func (g *gate) enter(ends ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, end := range ends {
		if g.shut {
			_ = end.Close()
		} else {
			g.open[end] = true
		}
	}
	return !g.shut
}

func (g *gate) pass(to, from net.Conn) {
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		g.mu.Lock()
		stuck := g.stuck
		g.mu.Unlock()
		<-stuck
		if err == nil {
			_, err = to.Write(buffer[:n])
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
			return
		}
	}
}

// set says whether the gate is shut, which closes its connections, and whether it is stuck.
func (g *gate) set(shut, stuck bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	select {
	case <-g.stuck:
		if stuck {
			g.stuck = make(chan struct{})
		}
	default:
		if !stuck {
			close(g.stuck)
		}
	}
	if shut {
		for end := range g.open {
			_ = end.Close()
		}
		clear(g.open)
	}
}

// through returns the URL with the gate's address.
func (g *gate) through(t *testing.T, of string) string {
	t.Helper()
	u, err := url.Parse(of)
	require.NoError(t, err)
	u.Host = g.address
	return u.String()
}

func hostOf(t *testing.T, of string) string {
	t.Helper()
	u, err := url.Parse(of)
	require.NoError(t, err)
	return u.Host
}

// While Redis or PostgreSQL is away, each page says so in time, and it is there again when
// they are.
func TestOutages(t *testing.T) {
	t.Parallel()
	redis, err := devstack.StartRedis(t.Context(), devstack.RedisOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = redis.Close() })
	database := devstacktest.Database(t, "console", prepare)
	toRedis, toPostgres := newGate(t, hostOf(t, redis.URL())), newGate(t, hostOf(t, database))
	const timeout = 3 * time.Second
	l := setupWith(t, changes{redis: toRedis.through(t, redis.URL()), database: toPostgres.through(t, database), timeout: timeout})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.log.String())
		}
	})
	b := l.signedIn("syt_admin")
	id := l.Queue("!a:x")
	proof := b.proof()
	paths := []string{
		"/", "/jobs", "/jobs/" + id, "/jobs/" + id + "/cancel", "/rooms", "/room?room=!a:x", "/room/plan?kind=delete_room&room=!a:x",
		"/room/block?room=!a:x", "/holds", "/holds/place", "/holds/lift?room=!a:x", "/schedules", "/schedules/run?name=daily", "/audit", "/live", "/jobs/" + id + "/live",
	}
	require.Empty(t, unseen(t, "GET", append([]string{"", "/static/x", "/sign-in"}, paths...)), "pages that this test does not see")
	for name, outage := range map[string]struct {
		gate        *gate
		shut, stuck bool
		says        string
	}{
		"Redis is stopped":      {toRedis, true, false, "Redis, which has the sessions, cannot be reached."},
		"Redis hangs":           {toRedis, false, true, "Redis, which has the sessions, cannot be reached."},
		"PostgreSQL is stopped": {toPostgres, true, false, "PostgreSQL cannot be reached."},
		"PostgreSQL hangs":      {toPostgres, false, true, "PostgreSQL cannot be reached.|The database has not answered in time."},
	} {
		events := b.stream(t, "/live")
		until(t, events, "No job runs.")
		outage.gate.set(outage.shut, outage.stuck)
		for _, path := range paths {
			if outage.stuck && path != "/" && path != "/jobs/"+id && path != "/live" {
				continue // each takes its whole time
			}
			begun := time.Now()
			p := b.get(path)
			require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout}, p.status, "%s: %s: %s", name, path, p.body)
			require.Regexp(t, outage.says, p.body, "%s: %s", name, path)
			require.Less(t, time.Since(begun), timeout+10*time.Second, "%s: %s", name, path)
		}
		require.Equal(t, http.StatusOK, b.get("/sign-in").status, "%s: the page to sign in needs no server", name)
		p := b.send("POST", root+"/sign-in", url.Values{"token": {"syt_admin"}})
		require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout}, p.status, "%s: %s", name, p.body)
		p = b.send("POST", root+"/jobs/"+id+"/cancel", url.Values{"proof": {proof}})
		require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusGatewayTimeout}, p.status, "%s: %s", name, p.body)
		for begun := time.Now(); events() != ""; { // it ends, because the session cannot be checked
			require.Less(t, time.Since(begun), 40*time.Second, name)
		}
		outage.gate.set(false, false)
		// Each connection that was in use may fail once more.
		require.Eventually(t, func() bool {
			return b.get("/").status == http.StatusOK && strings.Contains(b.get("/jobs/"+id).body, `<span class="badge queued">`)
		}, 30*time.Second, 100*time.Millisecond, name)
	}

	// Users can sign out while PostgreSQL is away.
	toPostgres.set(true, false)
	p := b.send("POST", root+"/sign-out", url.Values{"proof": {proof}})
	require.Equal(t, root+"/sign-in?out=1", p.header.Get("Location"), p.body)
	toPostgres.set(false, false)
	require.Empty(t, b.cookies)
}
