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

// ValidURL reports what is wrong with a Redis URL, without repeating a
// password that it holds. The forms are
//
//	redis://[user:password@]host[:6379][/db]            one server
//	redis-sentinel://[user:password@]host[:26379][,host…][/db]?master=name
//	redis-cluster://[user:password@]host[:6379][,host…]
//	rediss://…  rediss-sentinel://…  rediss-cluster://…    the same by TLS
//
// By TLS a server has to show a certificate for the host that it was reached by,
// of an authority that this machine trusts, or of those in the PEM file that the
// option ca_file names. The options cert_file and key_file name our own
// certificate and its key, for a server that asks for one.
//
// A password's @, /, ?, # and % are percent-encoded. The hosts of a Cluster
// are any of its nodes, those of redis-sentinel are sentinels. Sentinels and
// master take the same user and password, unless the options username and
// password name the master's. Further options are those of
// [redis.ParseURL], [redis.ParseFailoverURL] and [redis.ParseClusterURL].
func ValidURL(raw string) error {
	_, err := parse(raw)
	return err
}

// Open returns a client for the server, the Cluster or the master of the
// sentinels that the URL names; see [ValidURL]. It does not connect: an
// unreachable server shows in the first command. The caller closes the client.
func Open(raw string) (redis.UniversalClient, error) {
	t, err := parse(raw)
	if err != nil {
		return nil, err
	}
	return t.open()
}

// OpenForLocks is [Open] for a client of package lock, which asks Redis once and
// does not retry inside the client: a writer that waits asks again anyway, and a
// reader wants to know at once that Redis is away. Unless the URL's dial_timeout
// says otherwise, a connection is given up after 500 ms. The caller closes the
// client.
func OpenForLocks(raw string) (redis.UniversalClient, error) {
	t, err := parse(raw)
	if err != nil {
		return nil, err
	}
	t.hasten()
	return t.open()
}

// A target is a parsed URL: the options of whichever client it asks for. The
// others are nil.
type target struct {
	tls      tlsFiles
	server   *redis.Options
	sentinel *redis.FailoverOptions
	cluster  *redis.ClusterOptions
}

// open makes the client. Without ContextTimeoutEnabled a deadline of the
// caller's does not reach the socket, and a black-holed server makes every call
// take the client's own 5 s.
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

// hasten makes the client try once.
func (t target) hasten() {
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
	case t.cluster != nil: // it follows redirections all the same
		set(&t.cluster.MaxRetries, &t.cluster.DialerRetries, &t.cluster.DialTimeout)
	default:
		set(&t.server.MaxRetries, &t.server.DialerRetries, &t.server.DialTimeout)
	}
}

const (
	lockDialTimeout = 500 * time.Millisecond
	policyTimeout   = time.Second // for a master of several, which may be black-holed
)

var (
	errURL = errors.New("a Redis URL is redis://[user:password@]host:port/db, " +
		"redis-sentinel://[user:password@]host:port,host:port/db?master=name or redis-cluster://[user:password@]host:port,host:port, " +
		"with rediss in place of redis for TLS")
	errStrayAt = errors.New("the Redis URL has an @ after the host: in a password, write / as %2F, ? as %3F and # as %23")
)

// parse reads a URL. Its errors never quote a part that a badly encoded
// password could have got into.
func parse(raw string) (t target, err error) {
	scheme, rest, _ := strings.Cut(raw, "://")
	// Behind the host such an @ means that a piece of the password is there.
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
		return nil, errors.New("a Redis Cluster has database 0 alone")
	}
	return redis.ParseClusterURL(u.String())
}

// single rewrites an authority of several hosts as the client library wants
// it: the first host, and an option addr for each further one.
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
		return nil, errors.New("it is no URL: percent-encode what is special in the password")
	}
	query := u.Query()
	for _, address := range addresses[1:] {
		query.Add("addr", address)
	}
	u.RawQuery = query.Encode()
	return u, nil
}

// CheckPolicy returns an error that wraps [ErrEviction] unless the server, or
// every master of the Cluster, keeps every key until it expires. asynq loses
// active tasks for good where it may not. A server that does not show its policy
// passes.
func CheckPolicy(ctx context.Context, client redis.UniversalClient) error {
	if cluster, ok := client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error {
			return checkPolicy(ctx, master)
		})
	}
	return checkPolicy(ctx, client)
}

// CheckQuorum is [CheckPolicy] for independent masters that package lock uses
// together. Fewer than half of them may be out of reach; one that may evict is
// one too many. It takes at most a second or so.
func CheckQuorum(ctx context.Context, masters []redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(ctx, policyTimeout)
	defer cancel()
	results := make(chan error, len(masters))
	for _, master := range masters {
		go func() { results <- CheckPolicy(ctx, master) }()
	}
	var evicts, away []error
	for range masters {
		if err := <-results; errors.Is(err, ErrEviction) {
			evicts = append(evicts, err)
		} else if err != nil {
			away = append(away, err)
		}
	}
	if len(evicts) > 0 {
		return errors.Join(evicts...)
	}
	if len(away) >= len(masters)-len(masters)/2 {
		return fmt.Errorf("%d of %d Redis masters are out of reach: %w", len(away), len(masters), errors.Join(away...))
	}
	return nil
}

func checkPolicy(ctx context.Context, client redis.UniversalClient) error {
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
