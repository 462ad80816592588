package devstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The time limits for starting a server, including initdb, and for stopping it. The
// caller's context may end a start earlier.
const (
	startTimeout = time.Minute
	stopTimeout  = 15 * time.Second
)

// ErrDatabaseExists is wrapped by the error of [Postgres.CreateDatabase] if the
// database exists.
var ErrDatabaseExists = errors.New("the database exists")

// PostgresOptions are the options of [StartPostgres].
type PostgresOptions struct {
	// Dir is the directory for the data and the log. It is created if it does not
	// exist. If we are root, its owner becomes the server's user, which must be able
	// to enter it. Close keeps the directory, and another start with it finds the
	// databases. Two running servers cannot share a directory. Defaults to a
	// temporary directory that Close removes: in TMPDIR if that is set, else in
	// memory if enough is free, else in the system's temporary directory.
	Dir string

	// Durable makes commits survive a crash of the machine. Without it they survive
	// only a crash of the server, which is several times faster, and a crash of the
	// machine may destroy the directory. Defaults to false.
	Durable bool

	// SharedBuffers is the server's setting of that name, such as "1GB". Defaults to
	// the server's own default, 128MB.
	SharedBuffers string

	// Guard requires TLS and the password of the user lethe. Defaults to nil: every
	// user of the machine can connect.
	Guard *Guard
}

// Postgres is a running PostgreSQL server with UTF-8, C collation, UTC, and at most 200
// connections. It listens only on a port of 127.0.0.1, and not on a Unix socket, whose
// path could be too long. The superuser is lethe. Its methods are safe for concurrent
// use.
type Postgres struct {
	server
	programs string
	options  PostgresOptions

	// admin has the connection for statements about databases. It is kept open,
	// because connecting takes longer than creating a database. A receiver sends it
	// back. It is nil before the first statement.
	admin chan *pgx.Conn
}

// StartPostgres starts a server and returns when it accepts connections. The caller
// closes it. The context limits only the start, which takes a minute at most. The error
// wraps [ErrMissing] if PostgreSQL is not installed. Any other error contains the end of
// the server's log.
func StartPostgres(ctx context.Context, options PostgresOptions) (*Postgres, error) {
	p := newPostgres(options)
	if err := p.start(ctx, options.Dir, "postgres", p.initialise); err != nil {
		return nil, err
	}
	return p, nil
}

func newPostgres(options PostgresOptions) *Postgres {
	p := &Postgres{options: options, admin: make(chan *pgx.Conn, 1)}
	p.admin <- nil
	p.name, p.guard, p.launch = "PostgreSQL", options.Guard, p.serve
	// This is what PostgreSQL calls a fast shutdown: it closes the sessions and rolls
	// their transactions back.
	p.halt = func(ctx context.Context, server *child) error { return server.stop(ctx, syscall.SIGINT) }
	return p
}

// URL returns the connection string of a database, even if it does not exist. The
// database postgres always exists.
func (p *Postgres) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User("lethe"),
		Host:     localAddress(p.port),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	if p.guard != nil {
		p.guard.addTo(&u, p.port, p.dir)
	}
	return u.String()
}

// CreateDatabase creates a database as a copy of the template, which must have no
// connections, or an empty one if the template is "". The error wraps
// [ErrDatabaseExists] if the database exists.
func (p *Postgres) CreateDatabase(ctx context.Context, name, template string) error {
	template = cmp.Or(template, "template0")
	err := p.exec(ctx, func(version int) string {
		sql := "CREATE DATABASE " + quote(name) + " TEMPLATE " + quote(template)
		// Copying the files takes a quarter of the time. Since version 15 PostgreSQL
		// by default logs them page by page, which only a durable server needs.
		if !p.options.Durable && version >= 15 {
			sql += " STRATEGY FILE_COPY"
		}
		return sql
	})
	const duplicateDatabase = "42P04"
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == duplicateDatabase {
		err = ErrDatabaseExists
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// DropDatabase drops a database and closes the connections to it. It does nothing if
// the database does not exist.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	drop := "DROP DATABASE IF EXISTS " + quote(name) + " WITH (FORCE)"
	if err := p.exec(ctx, func(int) string { return drop }); err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

// Restore fills an existing empty database from a file in pg_dump's custom format. It
// ignores the owners and privileges in the file: everything belongs to lethe. After an
// error the database has a part of the contents.
func (p *Postgres) Restore(ctx context.Context, database, dumpFile string) error {
	// This does not run as the server's user, which may lack the right to read the file.
	dumpFile, err := filepath.Abs(dumpFile)
	if err != nil {
		return fmt.Errorf("restore database %s: %w", database, err)
	}
	cmd := directory{path: p.dir.path}.command(filepath.Join(p.programs, "pg_restore"),
		"--exit-on-error", "--no-owner", "--no-privileges", "--dbname="+p.URL(database), dumpFile)
	if err := run(ctx, cmd); err != nil {
		return fmt.Errorf("restore database %s: %w", database, err)
	}
	return nil
}

// Close stops the server, which closes its connections, and removes its data if the
// directory is temporary. It returns within 15 s. A second call does nothing and
// returns nil.
func (p *Postgres) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := p.server.Close()
	select {
	case conn := <-p.admin:
		if conn != nil {
			_ = conn.Close(ctx)
		}
		p.admin <- nil
	case <-ctx.Done(): // a statement still uses the connection, and will fail
	}
	return err
}

func (p *Postgres) data() string { return filepath.Join(p.dir.path, "data") }

// initialise creates the data directory, unless an earlier start has done so.
func (p *Postgres) initialise(ctx context.Context) (err error) {
	if p.programs, err = postgresPrograms(); err != nil {
		return err
	}
	if _, err := os.Stat(p.data()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// The directory has another name until it is complete, because we may be killed.
	unfinished := p.data() + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("remove an unfinished data directory: %w", err)
	}
	args := []string{"--pgdata=" + unfinished, "--username=lethe", "--auth=trust", "--encoding=UTF8", "--locale=C"}
	if !p.options.Durable {
		args = append(args, "--no-sync")
	}
	if p.guard != nil {
		more, err := p.guard.initArguments(p.dir)
		if err != nil {
			return err
		}
		args = append(args, more...)
	}
	if err := run(ctx, p.dir.command(filepath.Join(p.programs, "initdb"), args...)); err != nil {
		return err
	}
	if p.guard != nil {
		if err := p.guard.requireTLS(unfinished); err != nil {
			return err
		}
	}
	if err := os.Rename(unfinished, p.data()); err != nil {
		return fmt.Errorf("finish the data directory: %w", err)
	}
	return nil
}

func (p *Postgres) serve(ctx context.Context) (*child, error) {
	args := []string{
		"-D", p.data(),
		"-c", "listen_addresses=127.0.0.1",
		"-c", "port=" + strconv.Itoa(p.port),
		"-c", "unix_socket_directories=",
		"-c", "max_connections=200",
		"-c", "timezone=UTC",
	}
	if !p.options.Durable {
		args = append(args, "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off")
	}
	if p.options.SharedBuffers != "" {
		args = append(args, "-c", "shared_buffers="+p.options.SharedBuffers)
	}
	if p.guard != nil {
		args = append(args, "-c", "ssl=on", "-c", "ssl_cert_file="+p.dir.file(certFile), "-c", "ssl_key_file="+p.dir.file(keyFile))
	}
	// SIGQUIT, because after SIGKILL the server's own children would keep running.
	return serve(ctx, p.dir.command(filepath.Join(p.programs, "postgres"), args...), p.dir.log(), syscall.SIGQUIT)
}

// exec runs the statement for the server's major version. It runs one statement at a
// time.
func (p *Postgres) exec(ctx context.Context, statement func(version int) string) error {
	var conn *pgx.Conn
	select {
	case conn = <-p.admin:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { p.admin <- conn }()
	// The server may have been restarted since.
	if conn != nil && (conn.IsClosed() || conn.Ping(ctx) != nil) {
		_ = conn.Close(ctx)
		conn = nil
	}
	if conn == nil {
		var err error
		if conn, err = pgx.Connect(ctx, p.URL("postgres")); err != nil {
			conn = nil
			return err
		}
	}
	major, _, _ := strings.Cut(conn.PgConn().ParameterStatus("server_version"), ".")
	version, _ := strconv.Atoi(major) // 0 for an unreleased version
	_, err := conn.Exec(ctx, statement(version))
	return err
}

func quote(identifier string) string { return pgx.Identifier{identifier}.Sanitize() }
