package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"lethe/internal/redisdb"
)

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

// lockURLs is the list of the masters that keep the locks. It may be empty.
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
