package devstack

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"syscall"
)

// RedisOptions are the options of [StartRedis].
type RedisOptions struct {
	// AOF keeps the data through a Kill and a Restart. Without it the server restarts
	// empty. A crash of the machine may lose a second of data. Defaults to false.
	AOF bool

	// Arguments returns further arguments of the server. It is called before each
	// attempt to start the server. Defaults to nil: no further arguments.
	Arguments func() ([]string, error)

	// Config is the text of the server's configuration file. Defaults to "": no file.
	Config string

	// Dir is the directory for the data and the log. It is created if it does not
	// exist. If we are root, its owner becomes the server's user, which must be able
	// to enter it. Close keeps the directory, and with AOF another start with it
	// finds the data. Two servers cannot share a directory. Defaults to a temporary
	// directory that Close removes: in TMPDIR if that is set, else in memory if
	// enough is free, else in the system's temporary directory.
	Dir string

	// Guard requires TLS and a password. Defaults to nil: every user of the machine
	// can connect.
	Guard *Guard
}

// Redis is a running Redis server, which evicts no keys and listens only on a port of
// 127.0.0.1. Its methods are safe for concurrent use.
type Redis struct {
	server
	program string
	aof     bool
	more    []string // further arguments
}

// StartRedis starts a server and returns when it accepts connections. The caller closes
// it. The context limits only the start, which takes a minute at most. The error wraps
// [ErrMissing] if Redis is not installed. Any other error contains the end of the
// server's log.
func StartRedis(ctx context.Context, options RedisOptions) (*Redis, error) {
	r := &Redis{aof: options.AOF}
	r.name, r.guard, r.launch = "Redis", options.Guard, r.serve
	// A regular shutdown is not needed: every answered write is in the file.
	r.halt = func(_ context.Context, server *child) error {
		server.kill()
		return nil
	}
	err := r.start(ctx, options.Dir, "redis", func(context.Context) (err error) {
		if r.program, err = redisProgram(); err == nil {
			r.more, err = options.further(r.dir)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// further returns the further arguments of a server, and writes the files that they name.
// The first argument may be the name of a configuration file.
func (o RedisOptions) further(dir directory) (args []string, err error) {
	const configFile = "redis.conf"
	config := o.Config
	if o.Guard != nil {
		// Lists of processes show arguments, but not files.
		config += "requirepass " + strconv.Quote(o.Guard.Password) + "\n"
		if args, err = o.Guard.redisArguments(dir); err != nil {
			return nil, err
		}
	}
	if config != "" {
		if err := dir.write(configFile, []byte(config)); err != nil {
			return nil, fmt.Errorf("write the configuration of Redis: %w", err)
		}
		args = append([]string{dir.file(configFile)}, args...)
	}
	if o.Arguments == nil {
		return args, nil
	}
	more, err := o.Arguments()
	return append(args, more...), err
}

// URL returns the connection string of the server's database 0, with the password and
// the authority of a Guard.
func (r *Redis) URL() string {
	if r.guard != nil {
		return r.guard.redisURL(r.port, r.dir)
	}
	return "redis://" + r.address() + "/0"
}

func (r *Redis) address() string { return localAddress(r.port) }

// Kill kills the server and returns when it has ended. It does nothing if the server
// has ended.
func (r *Redis) Kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child != nil {
		r.child.kill()
	}
}

// Pause stops the process: connections stay open, the kernel accepts new ones, and
// commands get no answer. A second call does nothing. It fails if the server is not
// running.
func (r *Redis) Pause() error { return r.signal(syscall.SIGSTOP) }

// Resume ends a Pause. The server then answers the commands sent during the pause. It
// does nothing if the server is not paused, and fails if it is not running.
func (r *Redis) Resume() error { return r.signal(syscall.SIGCONT) }

func (r *Redis) serve(ctx context.Context) (*child, error) {
	appendOnly := "no"
	if r.aof {
		appendOnly = "yes"
	}
	port := []string{"--port", strconv.Itoa(r.port)}
	if r.guard != nil {
		port = []string{"--port", "0", "--tls-port", strconv.Itoa(r.port)}
	}
	// These come first, because the first may be the name of a file.
	cmd := r.dir.command(r.program, append(append(slices.Clone(r.more), port...),
		"--bind", "127.0.0.1",
		"--dir", r.dir.path,
		"--save", "",
		"--appendonly", appendOnly,
		"--maxmemory-policy", "noeviction",
	)...)
	// SIGKILL also ends a paused server.
	return serve(ctx, cmd, r.dir.log(), syscall.SIGKILL)
}

func (r *Redis) signal(signal syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == nil {
		return errClosed
	}
	return r.child.signal(signal)
}
