package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"lethe/internal/homeserver"
	"lethe/internal/mas"
	"lethe/internal/matrix"
	"lethe/internal/promquery"
	"lethe/internal/redisdb"
	"lethe/internal/schema"
)

// A format is what a text may be.
type format struct {
	is    string                  // describes it, for the reference
	check func(text string) error // its error never repeats the text
}

// mustBe returns a format whose error says what the text must be.
func mustBe(is string, valid func(string) bool) format {
	return format{is, func(text string) error {
		if !valid(text) {
			return errors.New("must be " + is)
		}
		return nil
	}}
}

var (
	addressFormat     = mustBe("host:port, such as 127.0.0.1:8470, with a port from 0 to 65535 or its name", validAddress)
	databaseURLFormat = format{"a PostgreSQL URL, such as postgres://user:password@host:5432/database", validDatabaseURL}

	prometheusURLFormat = format{"the URL of a Prometheus, such as http://127.0.0.1:9090", promquery.ValidURL}
	queryFormat         = mustBe("a query in PromQL of up to 10,000 bytes", func(text string) bool { return len(text) <= 10_000 })

	// filePathFormat accepts any text: whether a path is right shows when the file
	// is read.
	filePathFormat = mustBe("the path of a file", func(string) bool { return true })

	homeserverURLFormat = format{"a homeserver's URL, such as http://127.0.0.1:8008, with no path", homeserver.ValidURL}
	masURLFormat        = format{"the URL of Matrix Authentication Service, such as http://127.0.0.1:8080", mas.ValidURL}
	redisURLFormat      = format{
		"a Redis URL: redis://, redis-sentinel:// or redis-cluster://, with rediss instead of redis for TLS",
		redisdb.ValidURL,
	}
	serverNameFormat = mustBe("a Matrix server name, such as example.org", matrix.ValidServerName)
	secretFormat     = mustBe("letters, digits and signs, with no space", homeserver.ValidToken)
	tokenFormat      = mustBe("an access token: letters, digits and signs, with no space", homeserver.ValidToken)
)

// parsed is a text that parse turns into what the field holds.
func parsed[T any](field *T, is string, parse func(text string) (T, error)) value {
	return value{is: is, set: func(text string) error {
		parsed, err := parse(text)
		if err == nil {
			*field = parsed
		}
		return err
	}}
}

// listOf is a list, to which add adds one item after the other. The list may be empty.
func listOf[T any](field *[]T, is string, add func(list []T, item string) ([]T, error)) value {
	v := parsed(field, is, func(text string) (list []T, err error) {
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			number := len(list) + 1
			if list, err = add(list, item); err != nil {
				return nil, fmt.Errorf("number %d: %w", number, err)
			}
		}
		return list, nil
	})
	v.list = true
	return v
}

// required is a text that the format accepts.
func required[S ~string](field *S, f format) value {
	return parsed(field, f.is, func(text string) (S, error) { return S(text), f.check(text) })
}

// optional is a text that the format accepts, or an empty one.
func optional[S ~string](field *S, f format) value {
	return required(field, format{f.is, func(text string) error {
		if text == "" {
			return nil
		}
		return f.check(text)
	}})
}

// oneOf is one of several words.
func oneOf(field *string, words ...string) value {
	allowed := strings.Join(words, ", ")
	v := required(field, mustBe("one of: "+allowed, func(text string) bool { return slices.Contains(words, text) }))
	v.allowed = allowed
	return v
}

// number is a whole number within the bounds.
func number(field *int, minimum, maximum int) value {
	return bounded(field, [2]int{minimum, maximum}, "a whole number", strconv.Itoa, strconv.Atoi)
}

// duration is a duration within the bounds.
func duration(field *time.Duration, minimum, maximum time.Duration) value {
	return bounded(field, [2]time.Duration{minimum, maximum}, "a duration with its unit, such as 300ms, 30s or 24h,", short, time.ParseDuration)
}

// bounded is a value within two bounds. What names the value, and show writes a bound as
// parse reads it.
func bounded[T cmp.Ordered](field *T, bounds [2]T, what string, show func(T) string, parse func(string) (T, error)) value {
	allowed := show(bounds[0]) + " to " + show(bounds[1])
	is := what + " from " + allowed
	v := parsed(field, is, func(text string) (T, error) {
		n, err := parse(text)
		if err != nil || n < bounds[0] || n > bounds[1] {
			return n, errors.New("must be " + is)
		}
		return n, nil
	})
	v.allowed = allowed
	return v
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

// boolean is true or false.
func boolean(field *bool) value {
	return parsed(field, "true or false", func(text string) (bool, error) {
		if text != "true" && text != "false" {
			return false, errors.New("must be true or false")
		}
		return text == "true", nil
	})
}

func validAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	if err == nil && port != "" {
		_, err = net.LookupPort("tcp", port)
	}
	return err == nil && port != ""
}

// networks is a list of networks. An address is a network of its own.
func networks(field *[]netip.Prefix) value {
	const is = "a list of addresses or networks, such as 127.0.0.1 or 10.0.0.0/8"
	return listOf(field, is, func(list []netip.Prefix, item string) ([]netip.Prefix, error) {
		network, err := netip.ParsePrefix(item)
		if address, notAddress := netip.ParseAddr(item); notAddress == nil {
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		}
		if err != nil || network.Addr().Zone() != "" || network.Addr().Is4In6() {
			return nil, errors.New("must be an address or a network, such as 127.0.0.1 or 10.0.0.0/8")
		}
		return append(list, network.Masked()), nil
	})
}

// standbys are names of standbys. PostgreSQL cuts an application_name off after 63 bytes.
func standbys(field *[]string) value {
	return listOf(field, "a list of names", func(list []string, item string) ([]string, error) {
		if len(item) > 63 {
			return nil, errors.New("the name of a standby has up to 63 bytes")
		}
		return append(list, item), nil
	})
}

// lockURLs is the list of the masters that keep the locks. It may be empty.
// tableRules are the rules for unknown tables. A table has one rule.
func tableRules(field *schema.Rules) value {
	var rules []schema.Rules
	v := listOf(&rules, "a list of table=keep, table=delete_by_room and table=delete_by_event",
		func(list []schema.Rules, item string) ([]schema.Rules, error) {
			name, rule, err := schema.ParseRule(item)
			if err == nil && slices.ContainsFunc(list, func(r schema.Rules) bool { return r[name] != "" }) {
				err = fmt.Errorf("%s is listed twice", name)
			}
			return append(list, schema.Rules{name: rule}), err
		})
	setRules := v.set
	v.set = func(text string) error {
		if err := setRules(text); err != nil {
			return err
		}
		*field = nil
		for _, rule := range rules {
			if *field == nil {
				*field = schema.Rules{}
			}
			maps.Copy(*field, rule)
		}
		return nil
	}
	return v
}

func lockURLs(field *[]Secret) value {
	var urls []Secret
	v := listOf(&urls, "a list of redis:// or rediss:// URLs, an odd number of them, three or more", addLockURL)
	setURLs := v.set
	v.set = func(text string) error {
		if err := setURLs(text); err != nil {
			return err
		}
		if n := len(urls); n != 0 && (n < 3 || n%2 == 0) {
			return errors.New("must be an odd number of URLs, three or more, with commas between them (in a password, write a comma as %2C)")
		}
		*field = urls
		return nil
	}
	return v
}

func addLockURL(urls []Secret, item string) ([]Secret, error) {
	if err := redisdb.ValidURL(item); err != nil {
		return nil, err
	}
	// Two databases of one server fail together, so they are one master.
	server := redisServer(item)
	switch {
	case server == "":
		return nil, errors.New("must be redis:// or rediss://")
	case slices.ContainsFunc(urls, func(other Secret) bool { return redisServer(string(other)) == server }):
		return nil, errors.New("the same server is already in the list")
	}
	return append(urls, Secret(item)), nil
}

// redisServer returns the host:port of a redis:// or rediss:// URL, "" for another text.
func redisServer(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379"))
}

func validDatabaseURL(text string) error {
	if _, err := pgxpool.ParseConfig(text); err == nil {
		return nil
	}
	// pgx masks a password only if it can tell where the password is. So pgx also
	// parses a copy without the password, and its reason is only repeated if it
	// rejects the copy too.
	generic := errors.New("must be a PostgreSQL URL, such as postgres://user:password@host:5432/database")
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") || hasStrayAt(text) {
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

// hasStrayAt reports whether a URL has an @ after its host. This happens when the
// password holds a /, ? or # that is not percent-encoded: then the text after the
// host is a piece of the password.
func hasStrayAt(text string) bool {
	u, err := url.Parse(text)
	return err == nil && strings.Contains(u.Path+u.RawQuery+u.Fragment, "@")
}
