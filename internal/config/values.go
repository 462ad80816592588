package config

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"lethe/internal/homeserver"
	"lethe/internal/matrix"
	"lethe/internal/redisdb"
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

	// filePathFormat accepts any text: whether a path is right shows when the file
	// is read.
	filePathFormat = mustBe("the path of a file", func(string) bool { return true })

	homeserverURLFormat = format{"a homeserver's URL, such as http://127.0.0.1:8008, with no path", homeserver.ValidURL}
	redisURLFormat      = format{
		"a Redis URL: redis://, redis-sentinel:// or redis-cluster://, with rediss instead of redis for TLS",
		redisdb.ValidURL,
	}
	serverNameFormat = mustBe("a Matrix server name, such as example.org", matrix.ValidServerName)
	tokenFormat      = mustBe("an access token: letters, digits and signs, with no space", homeserver.ValidToken)
)

// required is a text that the format accepts.
func required[S ~string](field *S, f format) value {
	return value{is: f.is, set: func(text string) error {
		if err := f.check(text); err != nil {
			return err
		}
		*field = S(text)
		return nil
	}}
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
	allowed := fmt.Sprintf("%d to %d", minimum, maximum)
	is := "a whole number from " + allowed
	return value{is: is, allowed: allowed, set: func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < minimum || n > maximum {
			return errors.New("must be " + is)
		}
		*field = n
		return nil
	}}
}

// duration is a duration within the bounds.
func duration(field *time.Duration, minimum, maximum time.Duration) value {
	allowed := short(minimum) + " to " + short(maximum)
	is := "a duration with its unit, such as 300ms, 30s or 24h, from " + allowed
	return value{is: is, allowed: allowed, set: func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d < minimum || d > maximum {
			return errors.New("must be " + is)
		}
		*field = d
		return nil
	}}
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

var errBoolean = errors.New("must be true or false")

// boolean is true or false.
func boolean(field *bool) value {
	return value{is: "true or false", set: func(text string) error {
		if text != "true" && text != "false" {
			return errBoolean
		}
		*field = text == "true"
		return nil
	}}
}

// synapseBeside is a boolean that can also be unset, and that cannot be true yet.
func synapseBeside(field **bool) value {
	return value{is: "false", set: func(text string) error {
		var beside bool
		if err := boolean(&beside).set(text); err != nil {
			return err
		}
		if beside {
			return errors.New("true is not built yet: stop Synapse while Lethe purges, and say false")
		}
		*field = &beside
		return nil
	}}
}

// items returns the items of a list, without the empty ones.
func items(list string) []string {
	var all []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

func validAddress(text string) bool {
	_, port, err := net.SplitHostPort(text)
	if err == nil && port != "" {
		_, err = net.LookupPort("tcp", port)
	}
	return err == nil && port != ""
}
