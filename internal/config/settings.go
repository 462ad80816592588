package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.yaml.in/yaml/v3"

	"lethe/internal/homeserver"
	"lethe/internal/matrix"
	"lethe/internal/redisdb"
	"lethe/internal/retention"
)

// A refusal takes what is wrong with one of a list of mappings: the line, the
// place in the list as a piece of the error, and why. The last never repeats what
// was written.
type refusal func(line int, place string, err error)

// A setting is one leaf of a [Config]. Set parses and checks a text, and
// changes the Config only if it is valid; its error never repeats the text.
type setting struct {
	path     string // in the YAML file, such as "worker.time_slice"
	set      func(text string) error
	list     bool // may be a YAML list too, whose texts set gets with commas between them
	secret   bool // may be in a file that a variable names, see secretFile
	neededBy []Purpose

	// mappings is there in the place of set for one that is a list of mappings,
	// and like it changes the Config only if all is valid.
	mappings func(list *yaml.Node, from keys, refuse refusal)
}

// variable is the name of a setting's environment variable.
func variable(path string) string {
	return variablePrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// settings lists every setting of c by path. Nothing else relates a name to a
// field and to what it may be: the file and the environment both go by it.
func settings(c *Config) []setting {
	var (
		everyone = []Purpose{ForAPI, ForAsynqmon, ForDatabase, ForScheduler, ForWorker}
		services = []Purpose{ForAPI, ForAsynqmon, ForScheduler, ForWorker}
		knowing  = []Purpose{ForAPI, ForWorker} // whose users are ours
	)
	ofRetention := append(retentionLimits(&c.Retention.Limits), abandoned(&c.Retention.Rules.Abandoned)...)
	return append(ofRetention, []setting{
		{path: "account_validity", set: boolean(&c.AccountValidity)},
		{path: "api.listen", set: text(&c.API.Listen, validAddress)},
		{path: "api.tls_cert_file", set: optional(&c.API.TLS.CertFile, anyText)},
		{path: "api.tls_key_file", set: optional(&c.API.TLS.KeyFile, anyText)},
		{path: "asynqmon.listen", set: text(&c.Asynqmon.Listen, validAddress)},
		{path: "asynqmon.read_only", set: boolean(&c.Asynqmon.ReadOnly)},
		{path: "asynqmon.tls_cert_file", set: optional(&c.Asynqmon.TLS.CertFile, anyText)},
		{path: "asynqmon.tls_key_file", set: optional(&c.Asynqmon.TLS.KeyFile, anyText)},
		{path: "auth", set: oneOf(&c.Auth, AuthDatabase, AuthHomeserver)},
		{path: "database.max_connections", set: number(&c.Database.MaxConnections, 2, 10_000)},
		{path: "database.url", set: optional(&c.Database.URL, validDatabaseURL), secret: true, neededBy: everyone},
		{path: "dialect", set: oneOf(&c.Dialect, DialectNow, DialectSeed)},
		{path: "homeserver.as_token", set: optional(&c.Homeserver.ASToken, validToken), secret: true},
		{path: "homeserver.config_file", set: optional(&c.Homeserver.ConfigFile, anyText)},
		{path: "homeserver.url", set: optional(&c.Homeserver.URL, homeserver.ValidURL)},
		{path: "lock.redis_urls", set: redisURLs(&c.Lock.RedisURLs), list: true, secret: true},
		{path: "log.format", set: oneOf(&c.Log.Format, "text", "json")},
		{path: "log.level", set: oneOf(&c.Log.Level, "debug", "info", "warn", "error")},
		{path: "messages.backfill", set: boolean(&c.Messages.Backfill)},
		{path: "messages.departed_see_later", set: boolean(&c.Messages.DepartedSeeLater)},
		{path: "messages.wait", set: duration(&c.Messages.Wait, 100*time.Millisecond, 20*time.Second)},
		{path: "purge_delay", set: duration(&c.PurgeDelay, 0, 30*24*time.Hour)},
		{path: "redis.url", set: optional(&c.Redis.URL, redisdb.ValidURL), secret: true, neededBy: services},
		{path: "retention.allowed_lifetime_max", set: lifetime(&c.Retention.Rules.AllowedLifetimeMax)},
		{path: "retention.allowed_lifetime_min", set: lifetime(&c.Retention.Rules.AllowedLifetimeMin)},
		{path: "retention.clamp_reads", set: boolean(&c.Retention.Rules.ClampReads)},
		{path: "retention.default_policy.max_lifetime", set: lifetime(&c.Retention.Rules.DefaultPolicy.MaxLifetime)},
		{path: "retention.default_policy.min_lifetime", set: lifetime(&c.Retention.Rules.DefaultPolicy.MinLifetime)},
		{path: "retention.enabled", set: boolean(&c.Retention.Rules.Enabled)},
		{path: "retention.purge_jobs", mappings: purgeJobs(&c.Retention.Rules.Jobs)},
		{path: "retention.serve_configuration", set: boolean(&c.Retention.ServeConfiguration)},
		{path: "scheduler.listen", set: optional(&c.Scheduler.Listen, validAddress)},
		{path: "server_name", set: optional(&c.ServerName, validServerName), neededBy: knowing},
		{path: "signing_key_file", set: optional(&c.SigningKeyFile, anyText)},
		{path: "status_ttl", set: duration(&c.StatusTTL, time.Minute, 365*24*time.Hour)},
		{path: "synapse_beside", set: synapseBeside(&c.SynapseBeside)},
		{path: "trusted_proxies", set: networks(&c.TrustedProxies), list: true},
		{path: "worker.batch_events", set: number(&c.Worker.BatchEvents, 1, 1_000_000)},
		{path: "worker.batch_time", set: duration(&c.Worker.BatchTime, 10*time.Millisecond, 5*time.Second)},
		{path: "worker.concurrency", set: number(&c.Worker.Concurrency, 1, 1000)},
		{path: "worker.drain_timeout", set: duration(&c.Worker.DrainTimeout, time.Second, 10*time.Minute)},
		{path: "worker.listen", set: optional(&c.Worker.Listen, validAddress)},
		{path: "worker.time_slice", set: duration(&c.Worker.TimeSlice, time.Second, time.Hour)},
	}...)
}

// text sets a string that check accepts.
func text[S ~string](field *S, check func(string) error) func(string) error {
	return func(text string) error {
		if err := check(text); err != nil {
			return err
		}
		*field = S(text)
		return nil
	}
}

// optional is text that may also be empty.
func optional[S ~string](field *S, check func(string) error) func(string) error {
	return text(field, func(text string) error {
		if text == "" {
			return nil
		}
		return check(text)
	})
}

// anyText accepts what can only be found wrong when it is used, such as a path.
func anyText(string) error { return nil }

func oneOf(field *string, words ...string) func(string) error {
	return text(field, func(text string) error {
		if !slices.Contains(words, text) {
			return errors.New("must be one of: " + strings.Join(words, ", "))
		}
		return nil
	})
}

func number(field *int, least, most int) func(string) error {
	return func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > most {
			return fmt.Errorf("must be a whole number from %d to %d", least, most)
		}
		*field = n
		return nil
	}
}

func duration(field *time.Duration, least, most time.Duration) func(string) error {
	return func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most {
			return fmt.Errorf("must be a duration with its unit, such as 300ms, 30s or 24h, from %s to %s", short(least), short(most))
		}
		*field = d
		return nil
	}
}

// short is d without the zero minutes and seconds that String appends.
func short(d time.Duration) string {
	s := d.String()
	for _, zeros := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zeros) {
			s = s[:len(s)-2]
		}
	}
	return s
}

// lifetime sets a duration of the retention settings, in ms, or none.
func lifetime(field **int64) func(string) error {
	return func(text string) error {
		if text == "" {
			*field = nil
			return nil
		}
		ms, err := retention.ParseDuration(text)
		if err != nil {
			return err
		}
		*field = &ms
		return nil
	}
}

var errBoolean = errors.New("must be true or false")

func boolean(field *bool) func(string) error {
	return func(text string) error {
		if text != "true" && text != "false" {
			return errBoolean
		}
		*field = text == "true"
		return nil
	}
}

func synapseBeside(field **bool) func(string) error {
	return func(text string) error {
		var beside bool
		if err := boolean(&beside)(text); err != nil {
			return err
		}
		if beside {
			return errors.New("true is not built yet: stop Synapse while Lethe purges, and say false")
		}
		*field = &beside
		return nil
	}
}

func validServerName(text string) error {
	if !matrix.ValidServerName(text) {
		return errors.New("must be a Matrix server name, such as example.org")
	}
	return nil
}

func validToken(text string) error {
	if !homeserver.ValidToken(text) {
		return errors.New("must be an access token: letters, digits and signs, with no space")
	}
	return nil
}

func validAddress(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err == nil && port != "" {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil || port == "" {
		return errors.New("must be host:port, such as 127.0.0.1:8470, with a port from 0 to 65535 or its name")
	}
	return nil
}

// networks sets a list of networks; an address is one of its own.
func networks(field *[]netip.Prefix) func(string) error {
	return func(text string) error {
		var found []netip.Prefix
		for text := range strings.SplitSeq(text, ",") {
			raw := strings.TrimSpace(text)
			if raw == "" {
				continue
			}
			network, err := netip.ParsePrefix(raw)
			if address, notOne := netip.ParseAddr(raw); notOne == nil {
				network, err = netip.PrefixFrom(address, address.BitLen()), nil
			}
			if err != nil || network.Addr().Zone() != "" || network.Addr().Is4In6() {
				return fmt.Errorf("number %d: must be an address or a network, such as 127.0.0.1 or 10.0.0.0/8", len(found)+1)
			}
			found = append(found, network.Masked())
		}
		*field = found
		return nil
	}
}

// redisURLs sets the masters that locks are kept on, or none.
func redisURLs(field *[]Secret) func(string) error {
	return func(text string) error {
		var urls []Secret
		seen := map[string]bool{}
		for text := range strings.SplitSeq(text, ",") {
			raw := strings.TrimSpace(text)
			if raw == "" {
				continue
			}
			if err := redisdb.ValidURL(raw); err != nil {
				return fmt.Errorf("number %d: %w", len(urls)+1, err)
			}
			u, err := url.Parse(raw)
			if err != nil || (u.Scheme != "redis" && u.Scheme != "rediss") {
				return fmt.Errorf("number %d: must be redis:// or rediss://", len(urls)+1)
			}
			// Two databases of one server are no two masters.
			server := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379"))
			if seen[server] {
				return fmt.Errorf("number %d: the same server is there before", len(urls)+1)
			}
			seen[server] = true
			urls = append(urls, Secret(raw))
		}
		if n := len(urls); n != 0 && (n < 3 || n%2 == 0) {
			return errors.New("must be an odd number of URLs, three or more, with commas between them (in a password, write a comma as %2C)")
		}
		*field = urls
		return nil
	}
}

func validDatabaseURL(text string) error {
	if _, err := pgxpool.ParseConfig(text); err == nil {
		return nil
	}
	// pgx masks a password only as far as it can make out where it is. So let
	// it judge a copy without one, and tell its reason only if it has the same
	// objection to that.
	generic := errors.New("must be a PostgreSQL URL, such as postgres://user:password@host:5432/database")
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || strayAt(text) {
		return generic
	}
	query := u.Query()
	query.Del("password")
	query.Del("sslpassword")
	u.User, u.RawQuery = nil, query.Encode()
	if _, err = pgxpool.ParseConfig(u.String()); err == nil {
		return generic
	}
	return fmt.Errorf("%w (%w)", generic, err)
}

// strayAt reports whether a URL has an @ after its host, as one has whose
// password holds a /, ? or # that is not percent-encoded. Then what follows the
// host is a piece of the password.
func strayAt(text string) bool {
	u, err := url.Parse(text)
	return err == nil && strings.Contains(u.Path+u.RawQuery+u.Fragment, "@")
}
