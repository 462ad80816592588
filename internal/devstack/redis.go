package devstack

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"syscall"
)

// RedisOptions are the options of [StartRedis].
type RedisOptions struct {
	// AOF makes the data survive the server: with it, what was answered before
	// a Kill is there after a Restart; without it, the server comes back empty.
	// A crash of the machine may cost a second of data. Defaults to false.
	AOF bool

	// Dir is the directory for the data and the log. It belongs to the server:
	// it is made if absent, given to the server's user if we are root (who must
	// be able to enter it), and kept by Close, so that, with AOF, a second start
	// with it finds the data of the first. Two servers cannot share one.
	// Defaults to a temporary directory that Close removes: in TMPDIR if that is
	// set, else in memory if there is plenty, else wherever the system has them.
	Dir string

	// Guard lets only those in who know the password, by TLS. Defaults to nil:
	// everybody on the machine.
	Guard *Guard
}

// Redis is a Redis server of its own process, which evicts nothing and listens
// on a port of 127.0.0.1 only. Its methods may be called by
// several goroutines.
type Redis struct {
	program string
	dir     directory
	aof     bool
	port    int
	more    []string // further arguments
	guard   *Guard

	mu     sync.Mutex // held while the server starts or stops
	server *child     // nil once closed
}

// StartRedis starts a server and returns when it accepts connections; the
// caller closes it. The context bounds the start alone, which fails after a
// minute at the latest. The error wraps [ErrMissing] if Redis is not installed;
// any other one holds the end of the server's log.
func StartRedis(ctx context.Context, options RedisOptions) (*Redis, error) {
	var prepare func(directory) ([]string, error)
	if options.Guard != nil {
		prepare = options.Guard.redisArguments
	}
	return startRedis(ctx, options, prepare)
}

// startRedis is StartRedis with further arguments, which prepare returns for the
// directory of the server.
func startRedis(ctx context.Context, options RedisOptions, prepare func(directory) ([]string, error)) (*Redis, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()

	program, err := redisProgram()
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	dir, err := openDirectory(options.Dir, "redis")
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	r := &Redis{program: program, dir: dir, aof: options.AOF, guard: options.Guard}
	err = onFreePort(func(port int) error {
		r.port = port
		if prepare != nil {
			if r.more, err = prepare(r.dir); err != nil {
				return err
			}
		}
		return r.serve(ctx)
	})
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w", errors.Join(err, dir.remove()))
	}
	return r, nil
}

// URL returns the connection string of the server's database 0, with all that it
// takes to get past a Guard.
func (r *Redis) URL() string {
	if r.guard != nil {
		return r.guard.redisURL(r.port, r.dir)
	}
	return "redis://" + r.address() + "/0"
}

func (r *Redis) address() string { return localAddress(r.port) }

// Kill ends the server as a crash would, and returns when it has ended. On one
// that has ended it does nothing.
func (r *Redis) Kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server != nil {
		r.server.kill()
	}
}

// Pause stops the server in the middle of what it does: connections stay open,
// the kernel accepts new ones, nothing is answered. A second call does nothing.
// It fails if the server is not running.
func (r *Redis) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume ends a Pause: what was asked meanwhile is answered. On a server that
// is not paused it does nothing. It fails if the server is not running.
func (r *Redis) Resume() error { return r.signal(syscall.SIGCONT) }

// Restart kills the server, unless it was, and starts it on the same port. It
// comes back with what it held with [RedisOptions].AOF, else empty. After an
// error the server is not running, and Restart may be called again.
func (r *Redis) Restart(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server == nil {
		return fmt.Errorf("restart Redis: %w", errClosed)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	r.server.kill()
	if err := r.serve(ctx); err != nil {
		return fmt.Errorf("restart Redis: %w", err)
	}
	return nil
}

// Close kills the server, also a paused one, and removes its data if their
// directory is temporary. A second call does nothing and returns nil.
func (r *Redis) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server == nil {
		return nil
	}
	// There is nothing to gain from asking: an answered write is in the file.
	r.server.kill()
	r.server = nil
	if err := r.dir.remove(); err != nil {
		return fmt.Errorf("close Redis: %w", err)
	}
	return nil
}

func (r *Redis) serve(ctx context.Context) error {
	appendOnly := "no"
	if r.aof {
		appendOnly = "yes"
	}
	port := []string{"--port", strconv.Itoa(r.port)}
	if r.guard != nil {
		port = []string{"--port", "0", "--tls-port", strconv.Itoa(r.port)}
	}
	// What is more comes first, as it may be the name of a file.
	cmd := r.dir.command(r.program, append(append(slices.Clone(r.more), port...),
		"--bind", "127.0.0.1",
		"--dir", r.dir.path,
		"--save", "",
		"--appendonly", appendOnly,
		"--maxmemory-policy", "noeviction",
	)...)
	// SIGKILL, which ends a paused server too.
	server, err := serve(ctx, cmd, r.dir.log(), syscall.SIGKILL)
	if err != nil {
		return err
	}
	r.server = server
	return nil
}

func (r *Redis) signal(signal syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server == nil {
		return errClosed
	}
	return r.server.signal(signal)
}
