package devstack

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// errClosed is the error of a server's methods after Close.
var errClosed = errors.New("the server is closed")

// A server is a PostgreSQL or a Redis.
type server struct {
	name  string // for errors
	dir   directory
	port  int
	guard *Guard

	// launch starts the server on the port, and halt ends it. halt does nothing if the
	// server has ended.
	launch func(context.Context) (*child, error)
	halt   func(context.Context, *child) error

	mu    sync.Mutex // held while the server starts or stops
	child *child     // nil once closed
}

// start opens the directory and starts the server on a free port. It calls prepare before
// each attempt.
func (s *server) start(ctx context.Context, dir, label string, prepare func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.dir, err = openDirectory(dir, label); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	err = onFreePort(func(port int) (err error) {
		s.port = port
		if err = prepare(ctx); err == nil {
			s.child, err = s.launch(ctx)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, errors.Join(err, s.dir.remove()))
	}
	return nil
}

// Restart ends the server, which closes its connections, and starts it on the same port.
// PostgreSQL keeps its data, and so does a Redis with [RedisOptions].AOF; any other Redis
// is empty then. After an error the server is not running, and Restart may be called
// again.
func (s *server) Restart(ctx context.Context) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if s.child == nil {
		return fmt.Errorf("restart %s: %w", s.name, errClosed)
	}
	err = s.halt(ctx, s.child)
	if err == nil {
		var child *child
		if child, err = s.launch(ctx); err == nil {
			s.child = child
		}
	}
	if err != nil {
		return fmt.Errorf("restart %s: %w", s.name, err)
	}
	return nil
}

// Close ends the server, even a paused one, which closes its connections, and removes its
// data if the directory is temporary. It returns within 15 s. A second call does nothing
// and returns nil.
func (s *server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.child == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := errors.Join(s.halt(ctx, s.child), s.dir.remove())
	s.child = nil
	if err != nil {
		return fmt.Errorf("close %s: %w", s.name, err)
	}
	return nil
}
