package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// errGuardedStandby is the error of StartStandby for a server with a Guard.
var errGuardedStandby = errors.New("a server that requires TLS has no standby")

// StartStandby starts another server with a copy of this one's databases, in a temporary
// directory, and returns when it accepts connections. It follows this server until
// [Postgres.Promote]. It may be some time behind: a commit is not on it until a query there
// shows it. The caller closes it. The context limits only the start.
func (p *Postgres) StartStandby(ctx context.Context) (*Postgres, error) {
	if p.guard != nil {
		return nil, fmt.Errorf("start a standby: %w", errGuardedStandby)
	}
	s := newPostgres(PostgresOptions{Durable: p.options.Durable, SharedBuffers: p.options.SharedBuffers})
	s.programs = p.programs
	err := s.start(ctx, "", "postgres", func(ctx context.Context) error {
		// Another attempt, with another port, begins with another copy.
		if err := os.RemoveAll(s.data()); err != nil {
			return fmt.Errorf("remove an unfinished copy: %w", err)
		}
		if _, err := os.Stat(filepath.Join(s.programs, "pg_basebackup")); errors.Is(err, fs.ErrNotExist) {
			return s.copyData(ctx, p)
		}
		return run(ctx, s.dir.command(filepath.Join(s.programs, "pg_basebackup"), "--dbname="+p.URL("postgres"),
			"--pgdata="+s.data(), "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"))
	})
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	return s, nil
}

// copyData copies the data of a running server as pg_basebackup does, for packages of
// PostgreSQL that lack this program. The server must write little meanwhile.
func (s *Postgres) copyData(ctx context.Context, from *Postgres) (err error) {
	fail := func(err error) error { return fmt.Errorf("copy the data of a server: %w", err) }
	conn, err := pgx.Connect(ctx, from.URL("postgres"))
	if err != nil {
		return fail(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // it ends an unfinished backup, too
	var version int
	if err := conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return fail(err)
	}
	start, stop := `SELECT pg_backup_start('devstack', true)`, `SELECT labelfile FROM pg_backup_stop(false)`
	if version < 150000 {
		start, stop = `SELECT pg_start_backup('devstack', true, false)`, `SELECT labelfile FROM pg_stop_backup(false, false)`
	}
	if _, err := conn.Exec(ctx, start); err != nil {
		return fail(err)
	}
	if err := s.copyFiles(from, func(name string) bool { return filepath.Dir(name) != "pg_wal" && filepath.Dir(name) != "pg_replslot" }); err != nil {
		return fail(err)
	}
	var label string
	if err := conn.QueryRow(ctx, stop).Scan(&label); err != nil {
		return fail(err)
	}
	// The log is copied last, because it must have everything until now.
	if err := s.copyFiles(from, func(name string) bool { return filepath.Dir(name) == "pg_wal" }); err != nil {
		return fail(err)
	}
	settings, err := os.ReadFile(filepath.Join(from.data(), "postgresql.auto.conf"))
	if err != nil {
		return fail(err)
	}
	settings = fmt.Appendf(settings, "primary_conninfo = '%s'\n", from.URL("postgres"))
	for name, text := range map[string][]byte{"backup_label": []byte(label), "standby.signal": nil, "postgresql.auto.conf": settings} {
		if err := s.dir.write(filepath.Join("data", name), text); err != nil {
			return fail(err)
		}
	}
	return nil
}

// copyFiles copies the files of a running server that are wanted, by their names below the
// folder of its data, and all folders. Files that vanish meanwhile are left out.
func (s *Postgres) copyFiles(from *Postgres, wanted func(name string) bool) error {
	return filepath.WalkDir(from.data(), func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		name, failed := filepath.Rel(from.data(), path)
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		if entry.IsDir() {
			return s.dir.folder(filepath.Join("data", name))
		}
		if !wanted(name) || name == "postmaster.pid" || name == "postmaster.opts" || !entry.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return s.dir.write(filepath.Join("data", name), text)
	})
}

// Promote ends the recovery of a standby, and returns when it accepts writes. The error of
// a second call says that the server is not in recovery.
func (p *Postgres) Promote(ctx context.Context) error {
	if err := p.exec(ctx, func(int) string { return `SELECT pg_promote()` }); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return nil
}

// Crash ends the server and its sessions at once, as a crash of its process does: without a
// checkpoint, and without sending a standby what it has not received. It returns when the
// server has ended. [Postgres.Restart] starts it again.
func (p *Postgres) Crash(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return fmt.Errorf("crash %s: %w", p.name, errClosed)
	}
	if err := p.child.stop(ctx, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("crash %s: %w", p.name, err)
	}
	return nil
}
