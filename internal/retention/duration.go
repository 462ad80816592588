package retention

import (
	"errors"
	"math"
	"strconv"
)

// ErrDuration is returned for a text that is no duration.
var ErrDuration = errors.New("must be a whole number, from 0, with its unit s, m, h, d, w or y, such as 12h or 30d; without one it is milliseconds")

// A unit is what the letter at the end of a duration stands for.
type unit struct {
	letter byte
	ms     int64
}

// units are all of them, the longest first. A year is 365 days.
var units = []unit{
	{'y', 365 * 24 * 3600 * 1000},
	{'w', 7 * 24 * 3600 * 1000},
	{'d', 24 * 3600 * 1000},
	{'h', 3600 * 1000},
	{'m', 60 * 1000},
	{'s', 1000},
}

// ParseDuration reads a duration as Synapse's retention settings have it: digits,
// and a unit or none, which is ms. It returns ms. Whatever else, and more ms than
// an int64 holds, is [ErrDuration], which does not repeat the text.
func ParseDuration(text string) (ms int64, err error) {
	factor := int64(1)
	if n := len(text); n > 0 {
		for _, u := range units {
			if text[n-1] == u.letter {
				text, factor = text[:n-1], u.ms
				break
			}
		}
	}
	// ParseInt takes a sign.
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0, ErrDuration
		}
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil || number > math.MaxInt64/factor {
		return 0, ErrDuration
	}
	return number * factor, nil
}

// FormatDuration writes a duration of ms, from 0, as [ParseDuration] reads it,
// with the longest unit that fits: 1209600000 is 2w.
func FormatDuration(ms int64) string {
	for _, u := range units {
		if ms != 0 && ms%u.ms == 0 {
			return strconv.FormatInt(ms/u.ms, 10) + string(u.letter)
		}
	}
	return strconv.FormatInt(ms, 10)
}
