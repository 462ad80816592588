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
)

// clusterNodes is the least that a Redis Cluster can have.
const clusterNodes = 3

// RedisCluster is a Redis Cluster of three masters without replicas, each of
// which evicts nothing and listens on ports of 127.0.0.1 only, without a
// password. Its methods may be called by several goroutines, as those of [Redis]
// may.
type RedisCluster struct {
	// Nodes are the masters. One that comes back after a Kill has lost its data,
	// but is part of the Cluster again.
	Nodes []*Redis
}

// StartRedisCluster starts a Cluster and returns when every node serves it,
// which takes two seconds or more; the caller closes it. The context bounds the
// start alone, which fails after a minute at the latest. The error wraps
// [ErrMissing] if Redis is not installed; it must be version 7 or later.
func StartRedisCluster(ctx context.Context) (*RedisCluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c := &RedisCluster{}
	for range clusterNodes {
		node, err := startRedis(ctx, RedisOptions{}, func(directory) ([]string, error) {
			bus, err := freePort()
			// Ten thousand above the other port, as is usual, could be any
			// client's.
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

// URL returns the connection string of the Cluster, which names all nodes.
func (c *RedisCluster) URL() string {
	var addresses []string
	for _, node := range c.Nodes {
		addresses = append(addresses, node.address())
	}
	return "redis-cluster://" + strings.Join(addresses, ",")
}

// Kill ends every node as a crash would.
func (c *RedisCluster) Kill() {
	for _, node := range c.Nodes {
		node.Kill()
	}
}

// Pause stops every node in the middle of what it does, see [Redis.Pause].
func (c *RedisCluster) Pause() error { return c.each((*Redis).Pause) }

// Resume ends a Pause.
func (c *RedisCluster) Resume() error { return c.each((*Redis).Resume) }

// Restart kills every node, unless it was, starts it empty on the same ports,
// and returns when the Cluster is served again. After an error Restart may be
// called again.
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

// join makes the nodes one Cluster.
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

// awaitCluster returns when the node serves the Cluster, and sees that every
// other one does.
func (r *Redis) awaitCluster(ctx context.Context) error {
	client := r.client()
	defer func() { _ = client.Close() }()
	return await(ctx, "the Redis Cluster", func() (bool, error) {
		info, err := client.ClusterInfo(ctx).Result()
		return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384") &&
			strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(clusterNodes)), err
	})
}

// client returns a client of this very server, not of what it is part of.
func (r *Redis) client() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: r.address(), ContextTimeoutEnabled: true})
}

// await asks until the answer is yes.
func await(ctx context.Context, what string, ready func() (bool, error)) error {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		ok, err := ready()
		if ok && err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready in time: %w", what, errors.Join(context.Cause(ctx), err))
		case <-poll.C:
		}
	}
}
