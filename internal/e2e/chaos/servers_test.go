package chaos

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
	"lethe/internal/store/migrate"
)

// A database is a PostgreSQL server with a standby that may take its place, behind a proxy.
type database struct {
	t     *testing.T
	proxy *proxy

	mu      sync.Mutex
	primary *devstack.Postgres
	name    string        // of the round's database
	pool    *pgxpool.Pool // of the test itself, past the proxy
}

const template = "world"

func newDatabase(t *testing.T) *database {
	t.Helper()
	primary, err := devstack.StartPostgres(t.Context(), devstack.PostgresOptions{})
	require.NoError(t, err)
	d := &database{t: t, primary: primary}
	t.Cleanup(func() {
		d.pool.Close()
		require.NoError(t, d.primary.Close())
	})
	require.NoError(t, primary.CreateDatabase(t.Context(), template, ""))
	d.proxy = newProxy(t, hostOf(t, primary.URL(template)))
	d.open(template)
	return d
}

func hostOf(t *testing.T, of string) string {
	t.Helper()
	parsed, err := url.Parse(of)
	require.NoError(t, err)
	return parsed.Host
}

// open makes the database of that name, on the server that is the primary, the test's own.
func (d *database) open(name string) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pool != nil {
		d.pool.Close()
	}
	d.name = name
	// The name of the application is one of Lethe's: these sessions are no Synapse.
	pool, err := pgxpool.New(context.Background(), d.primary.URL(name)+"&application_name=lethe+chaos&pool_max_conns=8")
	require.NoError(d.t, err)
	d.pool = pool
}

// clone makes a copy of the template the round's database.
func (d *database) clone(name string) {
	d.t.Helper()
	d.mu.Lock()
	d.pool.Close()
	d.mu.Unlock()
	require.NoError(d.t, d.primary.CreateDatabase(d.t.Context(), name, template))
	require.NoError(d.t, migrate.NewID(d.t.Context(), d.primary.URL(name)))
	d.open(name)
}

// url returns the connection string of the round's database for a role, through the proxy.
func (d *database) url(role string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return "postgres://" + role + "@" + d.proxy.address + "/" + d.name + "?sslmode=disable"
}

// own returns the test's own sessions of the round's database.
func (d *database) own() *pgxpool.Pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pool
}

// settled runs do until it succeeds: the server restarts, or another takes its place.
func settled(ctx context.Context, do func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if err = do(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// read returns what a query finds in the round's database.
func read[T any](d *database, scan pgx.RowToFunc[T], sql string, args ...any) (all []T) {
	d.t.Helper()
	require.NoError(d.t, settled(d.t.Context(), func(ctx context.Context) error {
		rows, err := d.own().Query(ctx, sql, args...)
		if err == nil {
			all, err = pgx.CollectRows(rows, scan)
		}
		return err
	}), sql)
	return all
}

func one[T any](d *database, sql string, args ...any) T {
	d.t.Helper()
	return read(d, pgx.RowTo[T], sql, args...)[0]
}

func (d *database) exec(sql string, args ...any) {
	d.t.Helper()
	require.NoError(d.t, settled(d.t.Context(), func(ctx context.Context) error {
		_, err := d.own().Exec(ctx, sql, args...)
		return err
	}), sql)
}

var printedGrant = regexp.MustCompile(`GRANT .*;`)

// role makes a role of a kind of process, with the rights that `lethe doctor` prints for it.
func (d *database) role(kind string, env []string) {
	d.t.Helper()
	role := roleOf(kind)
	d.exec(`CREATE ROLE ` + role + ` LOGIN`)
	doctor := exec.CommandContext(d.t.Context(), filepath.Join(devstacktest.Binaries(d.t), "lethe"), "doctor", "--for", kind, "--role", role)
	doctor.Env = env
	report, _ := doctor.Output() // it fails, because the role lacks rights
	grants := printedGrant.FindAllString(string(report), -1)
	require.NotEmpty(d.t, grants, "%s", report)
	d.exec(strings.Join(grants, "\n"))
}

func roleOf(kind string) string { return "lethe_" + kind }

// promote has a standby take the server's place. No client is connected while it catches up,
// so every commit that a client knows of is on it.
func (d *database) promote(ctx context.Context) error {
	standby, err := d.primary.StartStandby(ctx)
	if err != nil {
		return err
	}
	d.proxy.set(func(p *proxy) { p.refuses = true })
	defer d.proxy.set(func(p *proxy) { p.refuses = false })
	d.proxy.cut()
	old := d.primary
	mark := fmt.Sprintf("mark_%d", time.Now().UnixNano())
	err = settled(ctx, func(ctx context.Context) error {
		// A session whose client is gone may still commit.
		var open int
		err := d.own().QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE usename IN ('lethe_api', 'lethe_worker', 'lethe_scheduler')`).Scan(&open)
		if err == nil && open > 0 {
			_, err = d.own().Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('lethe_api', 'lethe_worker', 'lethe_scheduler')`)
			if err == nil {
				err = fmt.Errorf("%d sessions are open", open)
			}
		}
		return err
	})
	if err == nil {
		_, err = d.own().Exec(ctx, `CREATE TABLE aside.`+mark+` ()`)
	}
	if err == nil {
		follower, failure := pgxpool.New(ctx, standby.URL(d.name))
		if failure != nil {
			return failure
		}
		err = settled(ctx, func(ctx context.Context) error {
			_, err := follower.Exec(ctx, `SELECT FROM aside.`+mark)
			return err
		})
		follower.Close()
	}
	if err == nil {
		err = old.Crash(ctx)
	}
	if err == nil {
		err = standby.Promote(ctx)
	}
	if err != nil {
		return err
	}
	d.proxy.set(func(p *proxy) { p.target = hostOf(d.t, standby.URL(d.name)) })
	d.mu.Lock()
	d.primary = standby
	d.mu.Unlock()
	d.open(d.name)
	return old.Close()
}

// A redisFleet is what the fleet has for a Redis, each server behind a proxy of its own.
type redisFleet struct {
	kind    string
	servers []*devstack.Redis
	proxies []*proxy
	cluster bool
}

// The kinds of a redisFleet.
var redisKinds = []string{"one Redis", "a Redis Cluster", "three lock masters"}

func newRedisFleet(t *testing.T, kind string) *redisFleet {
	t.Helper()
	r := &redisFleet{kind: kind}
	switch kind {
	case redisKinds[0]:
		r.servers = []*devstack.Redis{devstacktest.Redis(t)}
	case redisKinds[1]:
		r.servers, r.cluster = devstacktest.RedisCluster(t).Nodes, true
	case redisKinds[2]:
		r.servers = []*devstack.Redis{devstacktest.Redis(t), devstacktest.Redis(t), devstacktest.Redis(t), devstacktest.Redis(t)}
	}
	for _, server := range r.servers {
		r.proxies = append(r.proxies, newProxy(t, hostOf(t, server.URL())))
	}
	for i := range r.servers {
		require.NoError(t, r.announce(t.Context(), i))
	}
	return r
}

// env is what the processes must know of it.
func (r *redisFleet) env() []string {
	address := func(i int) string { return "redis://" + r.proxies[i].address + "/0" }
	switch r.kind {
	case redisKinds[1]:
		var all []string
		for _, p := range r.proxies {
			all = append(all, p.address)
		}
		return []string{"LETHE_REDIS_URL=redis-cluster://" + strings.Join(all, ",")}
	case redisKinds[2]:
		return []string{"LETHE_REDIS_URL=" + address(0), "LETHE_LOCK_REDIS_URLS=" + address(1) + "," + address(2) + "," + address(3)}
	}
	return []string{"LETHE_REDIS_URL=" + address(0)}
}

// isLockMaster reports whether the server has only locks. Such a server must stay away for
// 10 s when it has lost its data.
func (r *redisFleet) isLockMaster(i int) bool { return r.kind == redisKinds[2] && i > 0 }

// on runs a command on a server, past its proxy.
func (r *redisFleet) on(ctx context.Context, i int, command ...any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := redisdb.Open(r.servers[i].URL())
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	return client.(*redis.Client).Do(ctx, command...).Err()
}

// announce has a node of a Cluster name its proxy's address to clients.
func (r *redisFleet) announce(ctx context.Context, i int) error {
	if !r.cluster {
		return nil
	}
	host, port, _ := strings.Cut(r.proxies[i].address, ":")
	if err := r.on(ctx, i, "CONFIG", "SET", "cluster-announce-ip", host); err != nil {
		return err
	}
	return r.on(ctx, i, "CONFIG", "SET", "cluster-announce-port", port)
}

// restart kills a server, keeps it down for that time, and starts it without its data.
func (r *redisFleet) restart(ctx context.Context, i int, down time.Duration, pause func(time.Duration)) error {
	r.servers[i].Kill()
	if r.isLockMaster(i) {
		down = max(down, 11*time.Second)
	}
	pause(down)
	if err := r.servers[i].Restart(ctx); err != nil {
		return err
	}
	return r.announce(ctx, i)
}
