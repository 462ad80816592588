package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// timeLayouts are the forms of a time besides Unix milliseconds and durations. Those
// without a zone are in UTC.
var timeLayouts = []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, "2006-01-02 15:04", time.DateOnly}

// timeForms describes what parseTime takes.
const timeForms = "such as 2026-01-31, 2026-01-31T12:00:00Z, Unix milliseconds, or a duration such as 90d, 12h or 30m"

var (
	wholeNumber = regexp.MustCompile(`^[0-9]{1,15}$`)
	durationOf  = regexp.MustCompile(`^([0-9]{1,6})([smhdw])$`)
	unitOf      = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
)

// parseTime returns the Unix milliseconds of a time. A duration is before now if sign is
// -1, and after now if it is 1.
func parseTime(text string, now time.Time, sign int) (int64, error) {
	if wholeNumber.MatchString(text) {
		return strconv.ParseInt(text, 10, 64)
	}
	if match := durationOf.FindStringSubmatch(text); match != nil {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			return 0, err
		}
		return now.Add(time.Duration(sign*n) * unitOf[match[2]]).UnixMilli(), nil
	}
	for _, layout := range timeLayouts {
		if at, err := time.Parse(layout, text); err == nil && at.UnixMilli() > 0 {
			return at.UnixMilli(), nil
		}
	}
	return 0, fmt.Errorf("%q is no time: write one %s", text, timeForms)
}
