package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/devstack"
	"lethe/internal/matrix"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

const (
	// serverName is the homeserver that the made rooms are on.
	serverName = "bench.test"

	// sharedBuffers is a quarter of the memory of a small server, as PostgreSQL's
	// manual advises. In the 128 MB that are its default a large room's indexes have
	// no place, and what is measured is how pages come and go.
	sharedBuffers = "1GB"

	// cleanUpTime bounds the removal of what was made.
	cleanUpTime = time.Minute
)

// A rig is the servers that a benchmark runs on, and what it made there.
type rig struct {
	options Options
	schema  string // whose tables
	version string // PostgreSQL's

	server *url.URL // of PostgreSQL, as a superuser
	source string   // the database that templates are copies of
	plain  *url.Userinfo
	redis  *devstack.Redis

	keyFile string // of the key that the workers sign with

	prefix    string // of all names
	templates map[string]template
	closers   []func(context.Context) error // called last to first
}

// A template is a database with rooms to purge, for copies.
type template struct {
	name  string
	rooms []room
}

// A room is a generated one. At depth nine tenths of its events are below.
type room struct {
	id     string
	events int64
	depth  int64
}

func newRig(ctx context.Context, options Options) (r *rig, err error) {
	r = &rig{options: options, prefix: "lethe_bench_" + strings.ToLower(rand.Text()[:8]), templates: map[string]template{}}
	if err = r.start(ctx); err != nil {
		r.close(ctx, &err)
		return nil, err
	}
	return r, nil
}

// close removes what was made, and adds to *err what could not be.
func (r *rig) close(ctx context.Context, err *error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
	defer cancel()
	for i := len(r.closers) - 1; i >= 0; i-- {
		*err = errors.Join(*err, r.closers[i](ctx))
	}
}

func (r *rig) start(ctx context.Context) (err error) {
	switch "" {
	case r.options.API:
		return errors.New("API is not set")
	case r.options.Worker:
		return errors.New("Worker is not set")
	case r.options.Scheduler:
		return errors.New("Scheduler is not set")
	}
	if r.options.Synapse != "" && (r.options.SynapseDatabase == "" || r.options.SynapseToken == "") {
		return errors.New("with Synapse, SynapseDatabase and SynapseToken must be set")
	}
	if r.redis, err = devstack.StartRedis(ctx, devstack.RedisOptions{}); err != nil {
		return err
	}
	r.closers = append(r.closers, func(context.Context) error { return r.redis.Close() })
	if err := r.makeKey(); err != nil {
		return err
	}
	switch {
	case r.options.Database != "" && r.options.Dump != "":
		return errors.New("give a database or a dump, not both")
	case r.options.Database != "":
		err = r.useDatabase()
	default:
		err = r.startPostgres(ctx)
	}
	if err != nil {
		return err
	}
	return r.makeRole(ctx)
}

// makeKey makes a signing key of our own. Rooms with members of other servers are
// not shut down without.
func (r *rig) makeKey() error {
	file, err := os.CreateTemp("", "lethe-bench-*.signing.key")
	if err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	r.keyFile = file.Name()
	r.closers = append(r.closers, func(context.Context) error { return os.Remove(r.keyFile) })
	_, err = file.WriteString(matrix.GenerateSigningKey())
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	return nil
}

func (r *rig) useDatabase() (err error) {
	r.server, err = url.Parse(r.options.Database)
	if err != nil || r.server.Host == "" {
		return errors.New("the database must be given as postgres://user:password@host/database") // no word of what it holds
	}
	r.source = strings.TrimPrefix(r.server.Path, "/")
	r.schema = "copies of the database " + r.source
	return nil
}

func (r *rig) startPostgres(ctx context.Context) error {
	// devstack's own choice may be in memory, where a commit costs nothing.
	dir, err := os.MkdirTemp(r.options.Dir, "lethe-bench-")
	if err != nil {
		return fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	r.closers = append(r.closers, func(context.Context) error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // the server's user may be another
		return fmt.Errorf("make a directory for PostgreSQL: %w", err)
	}
	postgres, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{Dir: dir + "/postgres", Durable: true, SharedBuffers: sharedBuffers})
	if err != nil {
		return err
	}
	r.closers = append(r.closers, func(context.Context) error { return postgres.Close() })
	if r.server, err = url.Parse(postgres.URL("postgres")); err != nil {
		return err
	}
	// Whatever vacuums meanwhile is counted for one side alone.
	for _, sql := range []string{`ALTER SYSTEM SET autovacuum = off`, `SELECT pg_reload_conf()`} {
		if err := r.exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	r.source = r.prefix + "_source"
	if err := postgres.CreateDatabase(ctx, r.source, ""); err != nil {
		return err
	}
	if r.options.Dump != "" {
		r.schema = "copies of " + r.options.Dump
		return postgres.Restore(ctx, r.source, r.options.Dump)
	}
	r.schema = "Lethe's embedded schema (it has fewer foreign keys than Synapse's)"
	return migrate.UpEmbedded(ctx, r.url(r.source))
}

// makeRole makes a role that may read and write every table, but not turn
// triggers off.
func (r *rig) makeRole(ctx context.Context) error {
	password := rand.Text()
	if err := r.exec(ctx, "postgres", "CREATE ROLE "+r.prefix+" LOGIN PASSWORD '"+password+"'"); err != nil {
		return err
	}
	r.plain = url.UserPassword(r.prefix, password)
	r.closers = append(r.closers, func(ctx context.Context) error { return r.exec(ctx, "postgres", "DROP ROLE "+r.prefix) })
	return r.query(ctx, "postgres", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT current_setting('server_version') || ' with shared_buffers of ' || current_setting('shared_buffers')`).Scan(&r.version)
	})
}

// template returns a database with rooms of these sizes, which it makes when it
// is first asked for.
func (r *rig) template(ctx context.Context, label string, sizes ...int) (template, error) {
	return r.templateOf(ctx, label, func(ctx context.Context, tx pgx.Tx) (rooms []room, err error) {
		r.say("making %d rooms for %s, the largest of %d events", len(sizes), label, sizes[0])
		for i, size := range sizes {
			room, err := makeRoom(ctx, tx, uint64(i+1), size)
			if err != nil {
				return nil, err
			}
			rooms = append(rooms, room)
		}
		return rooms, nil
	})
}

// templateOf returns a database with the rooms that make makes when it is first
// asked for.
func (r *rig) templateOf(ctx context.Context, label string, make func(context.Context, pgx.Tx) ([]room, error)) (template, error) {
	if t, ok := r.templates[label]; ok {
		return t, nil
	}
	t := template{name: r.prefix + "_" + label}
	fail := func(err error) (template, error) {
		return template{}, fmt.Errorf("make the rooms for %s: %w", label, err)
	}
	r.closers = append(r.closers, func(ctx context.Context) error { return r.dropDatabase(ctx, t.name) })
	if err := r.copyDatabase(ctx, t.name, r.source); err != nil {
		return fail(err)
	}
	if err := migrate.Up(ctx, r.url(t.name)); err != nil {
		return fail(err)
	}
	err := r.query(ctx, t.name, func(conn *pgx.Conn) error {
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			t.rooms, err = make(ctx, tx)
			return err
		}); err != nil {
			return err
		}
		for _, sql := range []string{
			`GRANT USAGE ON SCHEMA lethe TO ` + r.prefix,
			`GRANT ALL ON ALL TABLES IN SCHEMA public, lethe TO ` + r.prefix,
			`VACUUM (ANALYZE)`,
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fail(err)
	}
	r.templates[label] = t
	return t, nil
}

func makeRoom(ctx context.Context, tx pgx.Tx, seed uint64, size int) (room, error) {
	made, err := roomgen.Generate(ctx, tx, roomgen.Room{
		Server: serverName, Seed: seed, Events: size, LocalMembers: max(1, min(12, size/100)), RemoteMembers: max(1, min(12, size/100)),
	})
	if err != nil {
		return room{}, err
	}
	r := room{id: made.Room, events: int64(made.Events)}
	err = tx.QueryRow(ctx, `
		SELECT topological_ordering FROM events WHERE room_id = $1 ORDER BY 1 OFFSET $2 LIMIT 1`,
		r.id, r.events*9/10).Scan(&r.depth)
	return r, err
}

// onCopy runs do on a new copy of a template, which is dropped afterwards.
func (r *rig) onCopy(ctx context.Context, t template, do func(database) error) (err error) {
	d := database{rig: r, name: r.prefix + "_copy"}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		defer cancel()
		err = errors.Join(err, r.dropDatabase(ctx, d.name))
	}()
	if err := r.copyDatabase(ctx, d.name, t.name); err != nil {
		return err
	}
	// So that nobody pays for the pages that the copying left to be written, and
	// each page is logged in full by whoever changes it first.
	if err := r.exec(ctx, d.name, `CHECKPOINT`); err != nil {
		return err
	}
	return do(d)
}

func (r *rig) copyDatabase(ctx context.Context, name, of string) error {
	return r.exec(ctx, "postgres", "CREATE DATABASE "+name+" TEMPLATE "+pgx.Identifier{of}.Sanitize())
}

func (r *rig) dropDatabase(ctx context.Context, name string) error {
	return r.exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// url is that of a database, as the superuser.
func (r *rig) url(database string) string {
	u := *r.server
	u.Path = "/" + database
	return u.String()
}

// exec runs one statement on a connection of its own.
func (r *rig) exec(ctx context.Context, database, sql string) error {
	return r.query(ctx, database, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

func (r *rig) query(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, r.url(database))
	if err != nil {
		return fmt.Errorf("connect to the database %s: %w", database, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := do(conn); err != nil {
		return fmt.Errorf("in the database %s: %w", database, err)
	}
	return nil
}

func (r *rig) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.options.Progress, "bench: "+format+"\n", args...) // nobody misses it
}
