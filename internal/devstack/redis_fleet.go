package devstack

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"lethe/internal/wait"
)

// clusterNodes is the minimum number of masters of a Redis Cluster.
const clusterNodes = 3

// pollInterval is how often a starting server is asked whether it is ready.
const pollInterval = 10 * time.Millisecond

// RedisCluster is a Redis Cluster of three masters without replicas. They evict no keys,
// listen only on ports of 127.0.0.1, and need no password. Its methods are safe for
// concurrent use.
type RedisCluster struct {
	// Nodes are the masters. After a Kill and a Restart a master has lost its data,
	// but is part of the Cluster again.
	Nodes []*Redis
}

// StartRedisCluster starts a Cluster and returns when every node serves it, which takes
// two seconds or more. The caller closes it. The context limits only the start, which
// takes a minute at most. The error wraps [ErrMissing] if Redis is not installed. It
// needs Redis 7 or later.
func StartRedisCluster(ctx context.Context) (*RedisCluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c := &RedisCluster{}
	for range clusterNodes {
		node, err := startRedis(ctx, RedisOptions{}, func(directory) ([]string, error) {
			bus, err := freePort()
			// The default, ten thousand above the other port, could be in use by a
			// client.
			return []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus)}, err
		})
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.Nodes = append(c.Nodes, node)
	}
	if err := c.join(ctx); err != nil {
		return nil, fmt.Errorf("start a Redis Cluster: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

// URL returns the connection string of the Cluster, with all nodes.
func (c *RedisCluster) URL() string {
	var addresses []string
	for _, node := range c.Nodes {
		addresses = append(addresses, node.address())
	}
	return "redis-cluster://" + strings.Join(addresses, ",")
}

// Kill kills every node.
func (c *RedisCluster) Kill() {
	for _, node := range c.Nodes {
		node.Kill()
	}
}

// Pause stops the process of every node, see [Redis.Pause].
func (c *RedisCluster) Pause() error { return c.each((*Redis).Pause) }

// Resume ends a Pause.
func (c *RedisCluster) Resume() error { return c.each((*Redis).Resume) }

// Restart kills every node that runs, starts all nodes empty on the same ports, and
// returns when they serve the Cluster. After an error Restart may be called again.
func (c *RedisCluster) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := c.each(func(node *Redis) error { return node.Restart(ctx) }); err != nil {
		return fmt.Errorf("restart a Redis Cluster: %w", err)
	}
	if err := c.each(func(node *Redis) error { return node.awaitCluster(ctx) }); err != nil {
		return fmt.Errorf("restart a Redis Cluster: %w", err)
	}
	return nil
}

// Close kills every node and removes their data. A second call does nothing and
// returns nil.
func (c *RedisCluster) Close() error { return c.each((*Redis).Close) }

// join joins the nodes to a Cluster.
func (c *RedisCluster) join(ctx context.Context) error {
	const slots = 16384
	for i, node := range c.Nodes {
		client := node.client()
		defer func() { _ = client.Close() }()
		first, last := i*slots/clusterNodes, (i+1)*slots/clusterNodes-1
		if err := client.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", first, last).Err(); err != nil {
			return fmt.Errorf("add slots: %w", err)
		}
		for _, other := range c.Nodes[:i] {
			bus := other.more[len(other.more)-1]
			if err := client.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", other.port, bus).Err(); err != nil {
				return fmt.Errorf("meet: %w", err)
			}
		}
	}
	return c.each(func(node *Redis) error { return node.awaitCluster(ctx) })
}

func (c *RedisCluster) each(do func(*Redis) error) error {
	var group errgroup.Group
	for _, node := range c.Nodes {
		group.Go(func() error { return do(node) })
	}
	return group.Wait()
}

// awaitCluster returns when the node serves the Cluster and knows all other nodes.
func (r *Redis) awaitCluster(ctx context.Context) error {
	client := r.client()
	defer func() { _ = client.Close() }()
	return await(ctx, "the Redis Cluster", func() (bool, error) {
		info, err := client.ClusterInfo(ctx).Result()
		return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384") &&
			strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(clusterNodes)), err
	})
}

// client returns a client for this server only, also in a Cluster.
func (r *Redis) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: r.address(), ContextTimeoutEnabled: true})
}

// await calls ready until it returns true.
func await(ctx context.Context, what string, ready func() (bool, error)) error {
	for {
		ok, err := ready()
		if ok && err == nil {
			return nil
		}
		if cause := wait.For(ctx, pollInterval); cause != nil {
			return fmt.Errorf("%s was not ready in time: %w", what, errors.Join(cause, err))
		}
	}
}

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
	const file = "sentinel.conf"
	text := fmt.Sprintf("sentinel monitor %[1]s 127.0.0.1 %[2]d 1\nsentinel down-after-milliseconds %[1]s 1000\n",
		sentinelMaster, s.Master.port)
	return []string{dir.file(file), "--sentinel"}, dir.write(file, []byte(text))
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
