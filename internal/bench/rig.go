package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"lethe/internal/bench/plainsql"
	"lethe/internal/devstack"
	"lethe/internal/matrix"
	"lethe/internal/redisdb"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

const (
	// serverName is the name of the homeserver of the generated rooms.
	serverName = "bench.test"

	// sharedBuffers is a quarter of the memory of a small server, as PostgreSQL's
	// manual recommends. The indexes of a large room do not fit into the default of
	// 128 MB, and the benchmark would then mainly measure reads from the disk.
	sharedBuffers = "1GB"

	// cleanUpTimeout is the longest time for removing what was created.
	cleanUpTimeout = time.Minute
)

// A rig is the servers of a benchmark, and what the benchmark has created on them.
type rig struct {
	options Options
	schema  string // describes the tables, for the result
	version string // of PostgreSQL

	server *url.URL      // of PostgreSQL, as a superuser
	source string        // the database that templates are copies of
	plain  *url.Userinfo // of a role that is not a superuser
	redis  *devstack.Redis

	keyFile string // path of the workers' signing key

	prefix    string // of the names of databases and roles
	templates map[string]template
	closers   []func(context.Context) error // called last to first
}

// A template is a database with rooms to purge, for copies.
type template struct {
	name  string
	rooms []room
}

// A room is a generated room.
type room struct {
	id     string
	events int64
	depth  int64 // nine tenths of the events have a smaller depth
}

// newRig starts the servers. The caller closes the rig.
func newRig(ctx context.Context, options Options) (r *rig, err error) {
	if options.Progress == nil {
		options.Progress = io.Discard
	}
	r = &rig{options: options, prefix: "lethe_bench_" + strings.ToLower(rand.Text()[:8]), templates: map[string]template{}}
	if err = r.start(ctx); err != nil {
		r.close(ctx, &err)
		return nil, err
	}
	return r, nil
}

// close removes everything that was created, and adds errors to *err.
func (r *rig) close(ctx context.Context, err *error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	for _, closer := range slices.Backward(r.closers) {
		*err = errors.Join(*err, closer(ctx))
	}
}

func (r *rig) start(ctx context.Context) (err error) {
	if err := r.options.check(); err != nil {
		return err
	}
	if r.redis, err = devstack.StartRedis(ctx, devstack.RedisOptions{}); err != nil {
		return err
	}
	r.closers = append(r.closers, func(context.Context) error { return r.redis.Close() })
	// The default directory of devstack may be in memory, where a commit costs nothing.
	dir, err := os.MkdirTemp(r.options.Dir, "lethe-bench-")
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	r.closers = append(r.closers, func(context.Context) error { return os.RemoveAll(dir) })
	// Without a key, rooms that have members on other servers are not shut down.
	r.keyFile = filepath.Join(dir, "signing.key")
	if err := os.WriteFile(r.keyFile, []byte(matrix.GenerateSigningKey()), 0o600); err != nil {
		return fmt.Errorf("make a signing key: %w", err)
	}
	if r.options.Database != "" {
		err = r.useDatabase()
	} else {
		err = r.startPostgres(ctx, dir)
	}
	if err != nil {
		return err
	}
	return r.makeRole(ctx)
}

func (r *rig) useDatabase() (err error) {
	r.server, err = url.Parse(r.options.Database)
	if err != nil || r.server.Host == "" {
		return errors.New("the database must be given as postgres://user:password@host/database") // without the URL, which may have a password
	}
	r.source = strings.TrimPrefix(r.server.Path, "/")
	r.schema = "copies of the database " + r.source
	return nil
}

func (r *rig) startPostgres(ctx context.Context, dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // the server may run as another user
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
	// A vacuum would slow down only one of the two sides.
	if err := r.exec(ctx, "postgres", `ALTER SYSTEM SET autovacuum = off`, `SELECT pg_reload_conf()`); err != nil {
		return err
	}
	r.source = r.prefix + "_source"
	if err := postgres.CreateDatabase(ctx, r.source, ""); err != nil {
		return err
	}
	if r.options.Dump != "" {
		r.schema = "copies of " + filepath.Base(r.options.Dump)
		return postgres.Restore(ctx, r.source, r.options.Dump)
	}
	r.schema = "Lethe's embedded schema (it has fewer foreign keys than Synapse's)"
	return migrate.UpEmbedded(ctx, r.url(r.source))
}

// makeRole creates a role that can read and write every table, but cannot disable
// triggers.
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

// template returns a database with rooms of these sizes. The first call with a label
// creates it.
func (r *rig) template(ctx context.Context, label string, sizes ...int) (template, error) {
	return r.templateOf(ctx, label, func(ctx context.Context, tx pgx.Tx) (rooms []room, err error) {
		r.say("creating %d rooms for %s, the first with %d events", len(sizes), label, sizes[0])
		for i, size := range sizes {
			room, err := makeRoom(ctx, tx, serverName, uint64(i+1), size)
			if err != nil {
				return nil, err
			}
			rooms = append(rooms, room)
		}
		return rooms, nil
	})
}

// templateOf returns a database with the rooms that make creates. The first call with
// a label creates it.
func (r *rig) templateOf(ctx context.Context, label string, make func(context.Context, pgx.Tx) ([]room, error)) (template, error) {
	if t, ok := r.templates[label]; ok {
		return t, nil
	}
	t := template{name: r.prefix + "_" + label}
	fail := func(err error) (template, error) {
		return template{}, fmt.Errorf("create the rooms for %s: %w", label, err)
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
		return execAll(ctx, conn, []string{
			`GRANT USAGE ON SCHEMA lethe TO ` + r.prefix,
			`GRANT ALL ON ALL TABLES IN SCHEMA public, lethe TO ` + r.prefix,
			`VACUUM (ANALYZE)`,
		})
	})
	if err != nil {
		return fail(err)
	}
	r.templates[label] = t
	return t, nil
}

// makeRoom generates a room of about this many events, on the homeserver with the name.
func makeRoom(ctx context.Context, tx pgx.Tx, server string, seed uint64, size int) (room, error) {
	made, err := roomgen.Generate(ctx, tx, roomgen.Room{
		Server: server, Seed: seed, Events: size, LocalMembers: max(1, min(12, size/100)), RemoteMembers: max(1, min(12, size/100)),
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

// A turn is a part of a run: what to measure on a new copy of a template.
type turn struct {
	name    string
	on      template
	measure func(database) error
}

// byTurns takes the turns one after the other, in each run.
func (r *rig) byTurns(ctx context.Context, of string, turns ...turn) error {
	for run := range r.options.Runs {
		for _, t := range turns {
			r.say("%s, run %d: %s", of, run+1, t.name)
			if err := r.onCopy(ctx, t.on, t.measure); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	return nil
}

// onCopy runs do on a new copy of a template, and drops the copy.
func (r *rig) onCopy(ctx context.Context, t template, do func(database) error) (err error) {
	d := database{rig: r, name: r.prefix + "_copy"}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		// The next copy's workers would take the tasks of this one's jobs, and drop them.
		err = errors.Join(err, r.dropDatabase(ctx, d.name), r.emptyRedis(ctx))
	}()
	if err := r.copyDatabase(ctx, d.name, t.name); err != nil {
		return err
	}
	// Without a checkpoint, do would also write the pages of the copy. After one, the
	// first change of each page logs the page in full, for both sides alike.
	if err := r.exec(ctx, d.name, `CHECKPOINT`); err != nil {
		return err
	}
	return do(d)
}

// emptyRedis deletes everything in the benchmark's own Redis.
func (r *rig) emptyRedis(ctx context.Context) error {
	client, err := redisdb.Open(r.redis.URL())
	if err != nil {
		return err
	}
	return errors.Join(client.FlushDB(ctx).Err(), client.Close())
}

func (r *rig) copyDatabase(ctx context.Context, name, of string) error {
	if err := r.exec(ctx, "postgres", "CREATE DATABASE "+name+" TEMPLATE "+pgx.Identifier{of}.Sanitize()); err != nil {
		return err
	}
	return migrate.SameID(ctx, r.url(name)) // the template has no processes
}

func (r *rig) dropDatabase(ctx context.Context, name string) error {
	return r.exec(ctx, "postgres", "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// url returns the URL of a database, as the superuser.
func (r *rig) url(database string) string {
	u := *r.server
	u.Path = "/" + database
	// Without a name these sessions would look like those of a homeserver.
	query := u.Query()
	query.Set("application_name", "lethe bench")
	u.RawQuery = query.Encode()
	return u.String()
}

// exec runs statements on a connection of their own.
func (r *rig) exec(ctx context.Context, database string, statements ...string) error {
	return r.query(ctx, database, func(conn *pgx.Conn) error { return execAll(ctx, conn, statements) })
}

// execAll runs statements, each with as many of the arguments as it uses. Some statements
// take no parameters, such as CREATE TABLE AS: this mode writes the arguments into the
// text.
func execAll(ctx context.Context, db interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}, statements []string, args ...any,
) error {
	for _, sql := range statements {
		used := len(args)
		for used > 0 && !strings.Contains(sql, fmt.Sprintf("$%d", used)) {
			used--
		}
		if _, err := db.Exec(ctx, sql, append([]any{pgx.QueryExecModeExec}, args[:used]...)...); err != nil {
			return fmt.Errorf("%w\n%s", err, sql)
		}
	}
	return nil
}

// execPlainly runs statements in one transaction. Without triggers, PostgreSQL checks no
// references and does not cascade: this is the floor, the cost of the deletes alone.
func (d database) execPlainly(ctx context.Context, triggers bool, statements []string, args ...any) error {
	if !triggers {
		statements = append([]string{plainsql.WithoutTriggers}, statements...)
	}
	err := d.rig.query(ctx, d.name, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return execAll(ctx, tx, statements, args...) })
	})
	if err != nil {
		return fmt.Errorf("run plain SQL: %w", err)
	}
	return nil
}

// query runs do on a connection of its own.
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

// say reports progress.
func (r *rig) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.options.Progress, "bench: "+format+"\n", args...) // progress may be lost
}
