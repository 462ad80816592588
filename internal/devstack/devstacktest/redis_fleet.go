package devstacktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"lethe/internal/devstack"
	"lethe/internal/wait"
)

// clusterNodes is the minimum number of masters of a Redis Cluster.
const clusterNodes = 3

// pollInterval is how often a starting server is asked whether it is ready.
const pollInterval = 10 * time.Millisecond

// Cluster is a Redis Cluster of three masters without replicas. They evict no keys,
// listen only on ports of 127.0.0.1, and need no password. Its methods are safe for
// concurrent use.
type Cluster struct {
	// Nodes are the masters. After a Kill and a Restart a master has lost its data,
	// but is part of the Cluster again.
	Nodes []*devstack.Redis

	buses []int // the nodes' ports for each other
}

// startCluster starts a Cluster and returns when every node serves it, which takes
// two seconds or more. The caller closes it. The context limits only the start, which
// takes a few minutes at most. The error wraps [devstack.ErrMissing] if Redis is not
// installed. It needs Redis 7 or later.
func startCluster(ctx context.Context) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c := &Cluster{}
	for range clusterNodes {
		var bus int
		node, err := devstack.StartRedis(ctx, devstack.RedisOptions{Arguments: func() (_ []string, err error) {
			// The default, ten thousand above the other port, could be in use by a
			// client.
			bus, err = devstack.FreePort()
			return []string{"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus)}, err
		}})
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.Nodes, c.buses = append(c.Nodes, node), append(c.buses, bus)
	}
	if err := c.join(ctx); err != nil {
		return nil, fmt.Errorf("start a Redis Cluster: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

// URL returns the connection string of the Cluster, with all nodes.
func (c *Cluster) URL() string {
	var addresses []string
	for _, node := range c.Nodes {
		addresses = append(addresses, address(node))
	}
	return "redis-cluster://" + strings.Join(addresses, ",")
}

// Kill kills every node.
func (c *Cluster) Kill() {
	for _, node := range c.Nodes {
		node.Kill()
	}
}

// Pause stops the process of every node, see [devstack.Redis.Pause].
func (c *Cluster) Pause() error { return c.each((*devstack.Redis).Pause) }

// Resume ends a Pause.
func (c *Cluster) Resume() error { return c.each((*devstack.Redis).Resume) }

// Restart kills every node that runs, starts all nodes empty on the same ports, and
// returns when they serve the Cluster. After an error Restart may be called again.
func (c *Cluster) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := c.each(func(node *devstack.Redis) error { return node.Restart(ctx) }); err != nil {
		return fmt.Errorf("restart a Redis Cluster: %w", err)
	}
	if err := c.each(func(node *devstack.Redis) error { return awaitCluster(ctx, node) }); err != nil {
		return fmt.Errorf("restart a Redis Cluster: %w", err)
	}
	return nil
}

// Close kills every node and removes their data. A second call does nothing and
// returns nil.
func (c *Cluster) Close() error { return c.each((*devstack.Redis).Close) }

// join joins the nodes to a Cluster.
func (c *Cluster) join(ctx context.Context) error {
	const slots = 16384
	for i, node := range c.Nodes {
		client := clientOf(node)
		defer func() { _ = client.Close() }()
		first, last := i*slots/clusterNodes, (i+1)*slots/clusterNodes-1
		if err := client.Do(ctx, "CLUSTER", "ADDSLOTSRANGE", first, last).Err(); err != nil {
			return fmt.Errorf("add slots: %w", err)
		}
		for j, other := range c.Nodes[:i] {
			host, port, _ := net.SplitHostPort(address(other))
			if err := client.Do(ctx, "CLUSTER", "MEET", host, port, c.buses[j]).Err(); err != nil {
				return fmt.Errorf("meet: %w", err)
			}
		}
	}
	return c.each(func(node *devstack.Redis) error { return awaitCluster(ctx, node) })
}

func (c *Cluster) each(do func(*devstack.Redis) error) error {
	var group errgroup.Group
	for _, node := range c.Nodes {
		group.Go(func() error { return do(node) })
	}
	return group.Wait()
}

// awaitCluster returns when the node serves the Cluster and knows all other nodes.
func awaitCluster(ctx context.Context, node *devstack.Redis) error {
	client := clientOf(node)
	defer func() { _ = client.Close() }()
	return await(ctx, "the Redis Cluster", func() (bool, error) {
		info, err := client.ClusterInfo(ctx).Result()
		return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384") &&
			strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(clusterNodes)), err
	})
}

// clientOf returns a client for this server only, also in a Cluster.
func clientOf(server *devstack.Redis) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: address(server), ContextTimeoutEnabled: true})
}

// address returns the host:port of a server.
func address(server *devstack.Redis) string {
	u, _ := url.Parse(server.URL()) // URL returns a valid one
	return u.Host
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

// Sentinel is a Redis with a replica and a sentinel. About a second after the
// master has ended, the sentinel makes the replica the master.
type Sentinel struct {
	// Master is the master until it is killed. It must not be restarted, because
	// there would be two masters for a moment.
	Master *devstack.Redis

	// Replica is the replica, and the master after Master was killed.
	Replica *devstack.Redis

	sentinel *devstack.Redis
}

// startSentinel starts the three servers and returns when the sentinel is ready to
// fail over. The caller closes the Sentinel. The context limits only the start,
// which takes a few minutes at most. The error wraps [devstack.ErrMissing] if Redis is not
// installed.
func startSentinel(ctx context.Context) (*Sentinel, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s := &Sentinel{}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("start Redis with a sentinel: %w", errors.Join(err, s.Close()))
	}
	return s, nil
}

func (s *Sentinel) start(ctx context.Context) error {
	// By default the master waits 5 s for a second replica.
	const atOnce = "repl-diskless-sync-delay 0\n"
	var err error
	if s.Master, err = devstack.StartRedis(ctx, devstack.RedisOptions{Config: atOnce}); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(address(s.Master))
	s.Replica, err = devstack.StartRedis(ctx, devstack.RedisOptions{
		Config: fmt.Sprintf("replicaof %s %s\n", host, port) + atOnce,
	})
	if err != nil {
		return err
	}
	// A sentinel looks for replicas when it starts, and then only after 10 s.
	master := clientOf(s.Master)
	defer func() { _ = master.Close() }()
	err = await(ctx, "the replica", func() (bool, error) {
		info, err := master.Info(ctx, "replication").Result()
		return strings.Contains(info, "state=online"), err
	})
	if err != nil {
		return err
	}
	s.sentinel, err = devstack.StartRedis(ctx, devstack.RedisOptions{
		// A sentinel requires a configuration file, which it rewrites.
		Config: fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s 1\nsentinel down-after-milliseconds %[1]s 1000\n",
			sentinelMaster, host, port),
		Arguments: func() ([]string, error) { return []string{"--sentinel"}, nil },
	})
	if err != nil {
		return err
	}
	sentinel := redis.NewSentinelClient(&redis.Options{Addr: address(s.sentinel), ContextTimeoutEnabled: true})
	defer func() { _ = sentinel.Close() }()
	return await(ctx, "the sentinel", func() (bool, error) {
		replicas, err := sentinel.Replicas(ctx, sentinelMaster).Result()
		return len(replicas) == 1 && replicas[0]["flags"] == "slave" && replicas[0]["master-link-status"] == "ok", err
	})
}

// URL returns the connection string of the current master.
func (s *Sentinel) URL() string {
	return "redis-sentinel://" + address(s.sentinel) + "/0?master=" + sentinelMaster
}

// Close kills all three servers and removes their data. A second call does nothing and
// returns nil.
func (s *Sentinel) Close() error {
	var errs []error
	for _, server := range []*devstack.Redis{s.sentinel, s.Replica, s.Master} {
		if server != nil {
			errs = append(errs, server.Close())
		}
	}
	return errors.Join(errs...)
}
