package retention

import (
	"errors"
	"math"
	"strconv"
)

// ErrDuration is returned for text that is not a duration.
var ErrDuration = errors.New("must be a whole number, from 0, with its unit s, m, h, d, w or y, such as 12h or 30d; without one it is milliseconds")

// A unit is the letter at the end of a duration, and its length.
type unit struct {
	letter byte
	ms     int64
}

// units lists all units, the longest first. A year is 365 days.
var units = []unit{
	{'y', 365 * 24 * 3600 * 1000},
	{'w', 7 * 24 * 3600 * 1000},
	{'d', 24 * 3600 * 1000},
	{'h', 3600 * 1000},
	{'m', 60 * 1000},
	{'s', 1000},
}

// ParseDuration parses a duration in the format of Synapse's retention settings:
// digits, and a unit. Without a unit the duration is in ms. ParseDuration returns ms.
// For any other text, and if the result overflows, it returns [ErrDuration], which does
// not contain the text.
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
	// ParseInt would accept a sign.
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

// FormatDuration formats a duration of at least 0 ms for [ParseDuration], with the
// longest unit that divides it: 1209600000 is 2w.
func FormatDuration(ms int64) string {
	for _, u := range units {
		if ms != 0 && ms%u.ms == 0 {
			return strconv.FormatInt(ms/u.ms, 10) + string(u.letter)
		}
	}
	return strconv.FormatInt(ms, 10)
}
