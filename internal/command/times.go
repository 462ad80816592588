package command

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"
)

// timeLayouts are the forms of a time besides Unix milliseconds and durations. Those
// without a zone are in UTC.
var timeLayouts = []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, "2006-01-02 15:04", time.DateOnly}

// TimeForms describes what [ParseTime] takes.
const TimeForms = "such as 2026-01-31, 2026-01-31T12:00:00Z, Unix milliseconds, or a duration such as 90d, 12h or 30m"

var (
	wholeNumber = regexp.MustCompile(`^[0-9]{1,15}$`)
	durationOf  = regexp.MustCompile(`^([0-9]{1,6})([smhdw])$`)
	unitOf      = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
)

// ParseTime returns the Unix milliseconds of a time since 1970. A duration is before now if
// sign is -1, and after now if it is 1.
func ParseTime(text string, now time.Time, sign int) (int64, error) {
	at, ok := int64(0), false
	if wholeNumber.MatchString(text) {
		return strconv.ParseInt(text, 10, 64)
	}
	if length, isDuration := parseDuration(text); isDuration {
		at, ok = now.Add(time.Duration(sign)*length).UnixMilli(), true
	}
	for _, layout := range timeLayouts {
		if date, err := time.Parse(layout, text); err == nil {
			at, ok = date.UnixMilli(), true
		}
	}
	switch {
	case !ok:
		return 0, fmt.Errorf("%q is no time: write one %s", text, TimeForms)
	case at < 0:
		return 0, fmt.Errorf("%q is before 1970", text)
	}
	return at, nil
}

// parseDuration returns a duration with one unit, such as 90d, or the longest that there is.
func parseDuration(text string) (time.Duration, bool) {
	match := durationOf.FindStringSubmatch(text)
	if match == nil {
		return 0, false
	}
	n, err := strconv.Atoi(match[1])
	return time.Duration(min(int64(n), math.MaxInt64/int64(unitOf[match[2]]))) * unitOf[match[2]], err == nil
}

// ParseUntil returns the value of --until, a time to come, in Unix milliseconds. It fails with
// a [Usage] error.
func ParseUntil(text string) (int64, error) {
	now := time.Now()
	at, err := ParseTime(text, now, 1)
	switch {
	case err != nil:
		return 0, Usage("--until: %w", err)
	case at <= now.UnixMilli():
		return 0, Usage("--until: %q is in the past", text)
	}
	return at, nil
}

// ParseGrace returns the value of --grace, at most longest, as the API takes it. It fails with
// a [Usage] error.
func ParseGrace(text string, longest time.Duration) (string, error) {
	taken := text
	grace, err := time.ParseDuration(text)
	if length, ok := parseDuration(text); ok && err != nil { // the API knows no days
		grace, taken, err = length, length.String(), nil
	}
	if err != nil || grace < 0 || grace > longest {
		return "", Usage("--grace: %q is not a duration such as 24h or 7d, of at most a year", text)
	}
	return taken, nil
}
