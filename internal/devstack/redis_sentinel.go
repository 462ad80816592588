package devstack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/redis/go-redis/v9"
)

// sentinelMaster is the sentinel's name for the master.
const sentinelMaster = "lethe"

// RedisSentinel is a Redis with a replica and a sentinel. About a second after the
// master has ended, the sentinel makes the replica the master.
type RedisSentinel struct {
	// Master is the master until it is killed. It must not be restarted, because
	// there would be two masters for a moment.
	Master *Redis

	// Replica is the replica, and the master after Master was killed.
	Replica *Redis

	sentinel *Redis
}

// StartRedisSentinel starts the three servers and returns when the sentinel is ready to
// fail over. The caller closes the RedisSentinel. The context limits only the start,
// which takes a minute at most. The error wraps [ErrMissing] if Redis is not installed.
func StartRedisSentinel(ctx context.Context) (*RedisSentinel, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &RedisSentinel{}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("start Redis with a sentinel: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *RedisSentinel) start(ctx context.Context) error {
	// By default the master waits 5 s for a second replica.
	atOnce := []string{"--repl-diskless-sync-delay", "0"}
	var err error
	s.Master, err = startRedis(ctx, RedisOptions{}, func(directory) ([]string, error) { return atOnce, nil })
	if err != nil {
		return err
	}
	s.Replica, err = startRedis(ctx, RedisOptions{}, func(directory) ([]string, error) {
		return append([]string{"--replicaof", fmt.Sprintf("127.0.0.1 %d", s.Master.port)}, atOnce...), nil
	})
	if err != nil {
		return err
	}
	// A sentinel looks for replicas when it starts, and then only after 10 s.
	master := s.Master.client()
	defer func() { _ = master.Close() }()
	err = await(ctx, "the replica", func() (bool, error) {
		info, err := master.Info(ctx, "replication").Result()
		return strings.Contains(info, "state=online"), err
	})
	if err != nil {
		return err
	}
	s.sentinel, err = startRedis(ctx, RedisOptions{}, s.configure)
	if err != nil {
		return err
	}
	sentinel := redis.NewSentinelClient(&redis.Options{Addr: s.sentinel.address(), ContextTimeoutEnabled: true})
	defer func() { _ = sentinel.Close() }()
	return await(ctx, "the sentinel", func() (bool, error) {
		replicas, err := sentinel.Replicas(ctx, sentinelMaster).Result()
		return len(replicas) == 1 && replicas[0]["flags"] == "slave" && replicas[0]["master-link-status"] == "ok", err
	})
}

// configure writes the sentinel's configuration file. A sentinel requires one and
// rewrites it.
func (s *RedisSentinel) configure(dir directory) ([]string, error) {
	file := filepath.Join(dir.path, "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 1\nsentinel down-after-milliseconds %[1]s 1000\n",
		sentinelMaster, s.Master.port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if dir.owner != nil {
		if err := os.Chown(file, int(dir.owner.Uid), int(dir.owner.Gid)); err != nil {
			return nil, err
		}
	}
	return []string{file, "--sentinel"}, nil
}

// URL returns the connection string of the current master.
func (s *RedisSentinel) URL() string {
	return "redis-sentinel://" + s.sentinel.address() + "/0?master=" + sentinelMaster
}

// Close kills all three servers and removes their data. A second call does nothing and
// returns nil.
func (s *RedisSentinel) Close() error {
	var errs []error
	for _, server := range []*Redis{s.sentinel, s.Replica, s.Master} {
		if server != nil {
			errs = append(errs, server.Close())
		}
	}
	return errors.Join(errs...)
}
