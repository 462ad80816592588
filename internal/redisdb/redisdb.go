package redisdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrEviction is returned by [CheckPolicy] when the server may evict keys.
var ErrEviction = errors.New("Redis may evict keys: set maxmemory-policy to noeviction")

// ValidURL returns an error if a Redis URL is invalid. The error does not contain a
// password from the URL. The forms are
//
//	redis://[user:password@]host[:6379][/db]            one server
//	redis-sentinel://[user:password@]host[:26379][,host…][/db]?master=name
//	redis-cluster://[user:password@]host[:6379][,host…]
//	rediss://…  rediss-sentinel://…  rediss-cluster://…    the same by TLS
//
// With TLS a server's certificate must be for the host that the client connects to.
// It must be signed by an authority that the machine trusts, or by one in the PEM
// file of the option ca_file. The options cert_file and key_file name a client
// certificate and its key.
//
// @, /, ?, # and % in a password are percent-encoded. The hosts of a Cluster are any
// of its nodes, and those of redis-sentinel are sentinels. Sentinels and master have
// the same user and password, unless the options username and password name the
// master's. Other options are those of [redis.ParseURL], [redis.ParseFailoverURL]
// and [redis.ParseClusterURL].
func ValidURL(raw string) error {
	_, err := parse(raw)
	return err
}

// Open returns a client for the server, the Cluster or the sentinels' master of the
// URL; see [ValidURL]. It does not connect: the first command fails if the server
// cannot be reached. The caller closes the client.
func Open(raw string) (redis.UniversalClient, error) {
	t, err := parse(raw)
	if err != nil {
		return nil, err
	}
	return t.open()
}

// OpenForLocks is [Open] for package lock. The client does not retry commands,
// because package lock does that, and a reader must learn at once that Redis is
// down. The dial timeout is 500 ms, unless the URL sets dial_timeout. The caller
// closes the client.
func OpenForLocks(raw string) (redis.UniversalClient, error) {
	t, err := parse(raw)
	if err != nil {
		return nil, err
	}
	t.disableRetries()
	return t.open()
}

// A target is a parsed URL: the options of one kind of client. The others are nil.
type target struct {
	tls      tlsFiles
	server   *redis.Options
	sentinel *redis.FailoverOptions
	cluster  *redis.ClusterOptions
}

// open creates the client. It sets ContextTimeoutEnabled, because otherwise the
// caller's deadline does not apply to the socket, and every call to a black-holed
// server takes the client's own 5 s.
func (t target) open() (redis.UniversalClient, error) {
	if err := t.secure(); err != nil {
		return nil, err
	}
	switch {
	case t.sentinel != nil:
		t.sentinel.ContextTimeoutEnabled = true
		return redis.NewFailoverClient(t.sentinel), nil
	case t.cluster != nil:
		t.cluster.ContextTimeoutEnabled = true
		return redis.NewClusterClient(t.cluster), nil
	default:
		t.server.ContextTimeoutEnabled = true
		return redis.NewClient(t.server), nil
	}
}

// disableRetries makes the client try each command and each dial once.
func (t target) disableRetries() {
	const none, once = -1, 1 // 0 would mean three and five
	set := func(retries, dials *int, dial *time.Duration) {
		*retries, *dials = none, once
		if *dial == 0 {
			*dial = lockDialTimeout
		}
	}
	switch {
	case t.sentinel != nil:
		set(&t.sentinel.MaxRetries, &t.sentinel.DialerRetries, &t.sentinel.DialTimeout)
	case t.cluster != nil: // it still follows redirections
		set(&t.cluster.MaxRetries, &t.cluster.DialerRetries, &t.cluster.DialTimeout)
	default:
		set(&t.server.MaxRetries, &t.server.DialerRetries, &t.server.DialTimeout)
	}
}

const (
	lockDialTimeout = 500 * time.Millisecond
	policyTimeout   = time.Second // for one of several masters, which may be black-holed
)

var (
	errURL = errors.New("a Redis URL is redis://[user:password@]host:port/db, " +
		"redis-sentinel://[user:password@]host:port,host:port/db?master=name or redis-cluster://[user:password@]host:port,host:port, " +
		"with rediss in place of redis for TLS")
	errStrayAt = errors.New("the Redis URL has an @ after the host: in a password, write / as %2F, ? as %3F and # as %23")
)

// parse parses a URL. Its errors quote no part that could contain a badly encoded
// password.
func parse(raw string) (t target, err error) {
	scheme, rest, _ := strings.Cut(raw, "://")
	// An @ after the host means that this is a part of the password.
	authority, tail := rest, ""
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority, tail = rest[:i], rest[i:]
	}
	if strings.Contains(tail, "@") {
		return target{}, errStrayAt
	}
	kind, byTLS := strings.CutPrefix(scheme, "rediss")
	if byTLS {
		kind = "redis" + kind
	} else {
		kind = scheme
	}
	if t.tls, tail, err = cutTLSFiles(tail, byTLS); err != nil {
		return target{}, err
	}
	switch kind {
	case "redis":
		raw = scheme + "://" + authority + tail
		if _, err := url.Parse(raw); err != nil {
			return target{}, errURL
		}
		t.server, err = redis.ParseURL(raw)
	case "redis-sentinel":
		t.sentinel, err = parseSentinel(authority, tail, byTLS)
	case "redis-cluster":
		t.cluster, err = parseCluster(authority, tail, byTLS)
	default:
		return target{}, errURL
	}
	if err != nil {
		return target{}, errors.New("Redis URL: " + strings.TrimPrefix(err.Error(), "redis: "))
	}
	return t, nil
}

func parseSentinel(authority, tail string, byTLS bool) (*redis.FailoverOptions, error) {
	u, err := single(authority, tail, "26379", byTLS)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	if query.Get("master") == "" {
		return nil, errors.New("redis-sentinel needs ?master=name")
	}
	query.Set("master_name", query.Get("master"))
	query.Del("master")
	u.RawQuery = query.Encode()
	options, err := redis.ParseFailoverURL(u.String())
	if err != nil {
		return nil, err
	}
	if options.Username == "" && options.Password == "" {
		options.Username, options.Password = options.SentinelUsername, options.SentinelPassword
	}
	return options, nil
}

func parseCluster(authority, tail string, byTLS bool) (*redis.ClusterOptions, error) {
	u, err := single(authority, tail, "6379", byTLS)
	if err != nil {
		return nil, err
	}
	if u.Path != "" && u.Path != "/" && u.Path != "/0" {
		return nil, errors.New("a Redis Cluster has only database 0")
	}
	return redis.ParseClusterURL(u.String())
}

// single rewrites an authority of several hosts for the client library: the first
// host, and an option addr for each further host.
func single(authority, tail, port string, byTLS bool) (*url.URL, error) {
	user, hosts := "", authority
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		user, hosts = authority[:i+1], authority[i+1:]
	}
	var addresses []string
	for host := range strings.SplitSeq(hosts, ",") {
		u, err := url.Parse("redis://" + host)
		if err != nil || u.Hostname() == "" || u.Host != host {
			return nil, errors.New("the hosts must be host:port,host:port")
		}
		addresses = append(addresses, net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)))
	}
	scheme := "redis://"
	if byTLS {
		scheme = "rediss://"
	}
	u, err := url.Parse(scheme + user + addresses[0] + tail)
	if err != nil {
		return nil, errors.New("invalid URL: percent-encode special characters in the password")
	}
	query := u.Query()
	for _, address := range addresses[1:] {
		query.Add("addr", address)
	}
	u.RawQuery = query.Encode()
	return u, nil
}

// CheckPolicy returns an error that wraps [ErrEviction] if the server, or a master of
// the Cluster, may evict keys. asynq would then lose active tasks for good. A server
// that does not show its policy passes.
func CheckPolicy(ctx context.Context, client redis.UniversalClient) error {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
			return checkPolicy(ctx, master)
		})
	}
	return checkPolicy(ctx, client)
}

// CheckQuorum is [CheckPolicy] for the independent masters of package lock. Fewer
// than half of them may be out of reach, and none may evict keys. It takes about a
// second at most.
func CheckQuorum(ctx context.Context, masters []redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	results := make(chan error, len(masters))
	for _, master := range masters {
		go func() { results <- CheckPolicy(ctx, master) }()
	}
	var evicts, unreachable []error
	for range masters {
		if err := <-results; errors.Is(err, ErrEviction) {
			evicts = append(evicts, err)
		} else if err != nil {
			unreachable = append(unreachable, err)
		}
	}
	if len(evicts) > 0 {
		return errors.Join(evicts...)
	}
	if len(unreachable) >= len(masters)-len(masters)/2 {
		return fmt.Errorf("%d of %d Redis masters are out of reach: %w", len(unreachable), len(masters), errors.Join(unreachable...))
	}
	return nil
}

func checkPolicy(ctx context.Context, client redis.UniversalClient) error {
	info, err := client.Info(ctx, "memory").Result()
	if err != nil {
		return fmt.Errorf("get the memory policy of Redis: %w", err)
	}
	for line := range strings.SplitSeq(info, "\n") {
		policy, ok := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:")
		if ok && policy != "noeviction" {
			return fmt.Errorf("maxmemory-policy is %s: %w", policy, ErrEviction)
		}
	}
	return nil
}
