package redisdb

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// ErrEviction is returned by [CheckPolicy] when the server may evict keys.
var ErrEviction = errors.New("Redis may evict keys: set maxmemory-policy to noeviction")

// ValidURL reports what is wrong with a Redis URL, without repeating a
// password that it holds. Schemes are redis and rediss.
func ValidURL(raw string) error {
	_, err := parse(raw)
	return err
}

// Open returns a client for the server that the URL names. It does not connect:
// an unreachable server shows in the first command. The caller closes the
// client.
func Open(raw string) (redis.UniversalClient, error) {
	options, err := parse(raw)
	if err != nil {
		return nil, err
	}
	// Without this a deadline of the caller's does not reach the socket, and a
	// black-holed server makes every call take the client's own 5 s.
	options.ContextTimeoutEnabled = true
	return redis.NewClient(options), nil
}

// OpenForLocks is [Open] for a client of package lock, which asks Redis once and
// does not retry inside the client: a writer that waits asks again anyway, and a
// reader wants to know at once that Redis is away. The caller closes the client.
func OpenForLocks(raw string) (redis.UniversalClient, error) {
	options, err := parse(raw)
	if err != nil {
		return nil, err
	}
	options.ContextTimeoutEnabled = true
	options.MaxRetries = -1 // none; 0 would mean three
	options.DialerRetries = 1
	return redis.NewClient(options), nil
}

func parse(raw string) (*redis.Options, error) {
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "redis" && u.Scheme != "rediss") {
		return nil, errors.New("a Redis URL is redis://[user:password@]host:port/db or rediss://…")
	}
	options, err := redis.ParseURL(raw)
	if err != nil {
		return nil, errors.New("Redis URL: " + strings.TrimPrefix(err.Error(), "redis: "))
	}
	return options, nil
}

// CheckPolicy returns an error that wraps [ErrEviction] unless the server keeps
// every key until it expires. asynq loses active tasks for good where it may
// not. A server that does not show its policy passes.
func CheckPolicy(ctx context.Context, client redis.UniversalClient) error {
	info, err := client.Info(ctx, "memory").Result()
	if err != nil {
		return fmt.Errorf("ask Redis for its memory policy: %w", err)
	}
	for line := range strings.SplitSeq(info, "\n") {
		policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
		if ok && policy != "noeviction" {
			return fmt.Errorf("maxmemory-policy is %s: %w", policy, ErrEviction)
		}
	}
	return nil
}
