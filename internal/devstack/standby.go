package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
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
		return run(ctx, s.dir.command(filepath.Join(s.programs, "pg_basebackup"), "--dbname="+p.URL("postgres"),
			"--pgdata="+s.data(), "--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"))
	})
	if err != nil {
		return nil, fmt.Errorf("start a standby: %w", err)
	}
	return s, nil
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
