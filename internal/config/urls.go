package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"lethe/internal/redisdb"
)

// networks is a list of networks. An address is a network of its own.
func networks(field *[]netip.Prefix) value {
	return value{is: "a list of addresses or networks, such as 127.0.0.1 or 10.0.0.0/8", list: true, set: func(text string) error {
		var found []netip.Prefix
		for _, item := range items(text) {
			network, err := netip.ParsePrefix(item)
			if address, notAddress := netip.ParseAddr(item); notAddress == nil {
				network, err = netip.PrefixFrom(address, address.BitLen()), nil
			}
			if err != nil || network.Addr().Zone() != "" || network.Addr().Is4In6() {
				return fmt.Errorf("number %d: must be an address or a network, such as 127.0.0.1 or 10.0.0.0/8", len(found)+1)
			}
			found = append(found, network.Masked())
		}
		*field = found
		return nil
	}}
}

// lockURLs is the list of the masters that keep the locks. It may be empty.
func lockURLs(field *[]Secret) value {
	return value{is: "a list of redis:// or rediss:// URLs, an odd number of them, three or more", list: true, set: func(text string) error {
		urls, err := parseLockURLs(items(text))
		if err == nil {
			*field = urls
		}
		return err
	}}
}

func parseLockURLs(all []string) (urls []Secret, err error) {
	seen := map[string]bool{}
	for i, item := range all {
		if err := redisdb.ValidURL(item); err != nil {
			return nil, fmt.Errorf("number %d: %w", i+1, err)
		}
		u, err := url.Parse(item)
		if err != nil || (u.Scheme != "redis" && u.Scheme != "rediss") {
			return nil, fmt.Errorf("number %d: must be redis:// or rediss://", i+1)
		}
		// Two databases of one server fail together, so they are one master.
		server := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "6379"))
		if seen[server] {
			return nil, fmt.Errorf("number %d: the same server is already in the list", i+1)
		}
		seen[server] = true
		urls = append(urls, Secret(item))
	}
	if n := len(urls); n != 0 && (n < 3 || n%2 == 0) {
		return nil, errors.New("must be an odd number of URLs, three or more, with commas between them (in a password, write a comma as %2C)")
	}
	return urls, nil
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
