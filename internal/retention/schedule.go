package retention

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	_ "time/tzdata" // for machines without time zones

	"github.com/robfig/cron/v3"
)

// minInterval is the minimum time between two ticks, in ms. A smaller one most likely
// lacks its unit.
const minInterval = 1000

// A Schedule is the times when a job is due, which are its ticks. They depend only on
// the schedule, so all processes agree on them, also after restarts. The zero Schedule
// has no ticks.
type Schedule struct {
	interval int64 // between ticks, in ms; 0 for cron
	text     string
	spec     *cron.SpecSchedule // nil for an interval
}

// Every returns a Schedule whose ticks are the multiples of the interval, in ms, since
// the Unix epoch. So a schedule of one day has its ticks at midnight UTC, and one of a
// week on Thursdays. An interval of less than a second is an error.
func Every(interval int64) (Schedule, error) {
	if interval < minInterval {
		return Schedule{}, errors.New("must be at least 1s: a number without a unit is milliseconds")
	}
	return Schedule{interval: interval}, nil
}

// maxCron is the maximum size of a cron text, in bytes.
const maxCron = 200

// cronParser parses five fields, or a word such as @daily.
var cronParser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// ParseCron parses the five fields of cron, which are minute, hour, day of the month,
// month and day of the week, or @hourly, @daily, @weekly, @monthly or @yearly. The times
// are in UTC, unless the text begins with CRON_TZ= and the name of a time zone.
//
// When clocks are put forward, the ticks of the missing hour are an hour earlier or
// later. When clocks are put back, the ticks of the repeated hour occur once. A text
// without ticks is an error, which does not contain the text.
func ParseCron(text string) (Schedule, error) {
	if len(text) > maxCron {
		return Schedule{}, fmt.Errorf("must not be longer than %d bytes", maxCron)
	}
	fields := strings.Fields(text)
	zone := time.UTC
	// The parser supports zones too, but panics if nothing follows the zone.
	if len(fields) > 0 {
		for _, prefix := range []string{"CRON_TZ=", "TZ="} {
			name, ok := strings.CutPrefix(fields[0], prefix)
			if !ok {
				continue
			}
			var err error
			// "Local" differs between machines.
			if zone, err = time.LoadLocation(name); err != nil || name == "" || zone == time.Local {
				return Schedule{}, errors.New("must name a time zone after CRON_TZ=, such as CRON_TZ=Europe/Berlin")
			}
			fields = fields[1:]
			break
		}
	}
	bad := errors.New("must be the five fields of cron, such as 30 3 * * *, or @hourly, @daily, @weekly, @monthly or @yearly")
	if len(fields) == 0 || strings.Contains(fields[0], "=") {
		return Schedule{}, bad
	}
	parsed, err := cronParser.Parse(strings.Join(fields, " "))
	if err != nil {
		return Schedule{}, bad
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok { // @every, whose ticks depend on the start of the process
		return Schedule{}, bad
	}
	spec.Location = zone
	s := Schedule{text: strings.Join(strings.Fields(text), " "), spec: spec}
	if _, ok := s.nextCron(time.Unix(0, 0)); !ok {
		return Schedule{}, errors.New("never occurs, such as the 30th of February")
	}
	return s, nil
}

// IsZero reports whether the Schedule has no ticks.
func (s Schedule) IsZero() bool { return s.interval == 0 && s.spec == nil }

// Equal reports whether two Schedules have the same interval or text.
func (s Schedule) Equal(other Schedule) bool {
	return s.interval == other.interval && s.text == other.text
}

// String returns the interval as a duration, or the cron text with single spaces.
func (s Schedule) String() string {
	if s.spec == nil {
		return FormatDuration(s.interval)
	}
	return s.text
}

// Previous returns the latest tick that is not after now, in UTC, or the zero time if
// there is no such tick.
func (s Schedule) Previous(now time.Time) time.Time {
	switch {
	case s.interval > 0:
		ms := now.UnixMilli()
		since := s.sinceTick(ms)
		if ms < math.MinInt64+since {
			return time.Time{}
		}
		return time.UnixMilli(ms - since).UTC()
	case s.spec != nil:
		tick, _ := s.previousCron(now)
		return tick.UTC()
	}
	return time.Time{}
}

// Next returns the earliest tick after a time, in UTC, or the zero time if there is no
// such tick.
func (s Schedule) Next(after time.Time) time.Time {
	switch {
	case s.interval > 0:
		ms := after.UnixMilli()
		wait := s.interval - s.sinceTick(ms)
		if ms > math.MaxInt64-wait {
			return time.Time{}
		}
		return time.UnixMilli(ms + wait).UTC()
	case s.spec != nil:
		tick, _ := s.nextCron(after)
		return tick.UTC()
	}
	return time.Time{}
}

// sinceTick returns the time between the last tick of an interval and ms, in ms.
func (s Schedule) sinceTick(ms int64) int64 {
	since := ms % s.interval
	if since < 0 {
		since += s.interval
	}
	return since
}

// maxDays is more than the days between two ticks of any cron. The longest time is
// between two 29ths of February around a year such as 2100.
const maxDays = 3000

// nextCron and previousCron check the same days, so that they agree. A tick during a
// change of the clocks may be on a neighbouring day, so they begin a day early and
// check one more day than necessary.
func (s Schedule) nextCron(after time.Time) (tick time.Time, found bool) {
	day := civil(after.In(s.spec.Location)).AddDate(0, 0, -1)
	for range maxDays {
		before := found
		s.ticks(day, func(t time.Time) {
			if t.After(after) && (!found || t.Before(tick)) {
				tick, found = t, true
			}
		})
		if before {
			break
		}
		day = day.AddDate(0, 0, 1)
	}
	return tick, found
}

func (s Schedule) previousCron(now time.Time) (tick time.Time, found bool) {
	day := civil(now.In(s.spec.Location)).AddDate(0, 0, 1)
	for range maxDays {
		before := found
		s.ticks(day, func(t time.Time) {
			if !t.After(now) && (!found || t.After(tick)) {
				tick, found = t, true
			}
		})
		if before {
			break
		}
		day = day.AddDate(0, 0, -1)
	}
	return tick, found
}

// civil returns the day of a time, without its zone.
func civil(t time.Time) time.Time {
	year, month, day := t.Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// ticks calls yield with each tick of a day, in any order.
func (s Schedule) ticks(day time.Time, yield func(time.Time)) {
	if !s.includes(day) {
		return
	}
	year, month, date := day.Date()
	for hour := range 24 {
		if s.spec.Hour&(1<<hour) == 0 {
			continue
		}
		for minute := range 60 {
			if s.spec.Minute&(1<<minute) != 0 {
				yield(time.Date(year, month, date, hour, minute, 0, 0, s.spec.Location))
			}
		}
	}
}

// everyDay is the parser's bit for a star in a field of days.
const everyDay = 1 << 63

// includes reports whether a day has ticks. If both a day of the month and a day of
// the week are given, either matches, as always in cron.
func (s Schedule) includes(day time.Time) bool {
	if s.spec.Month&(1<<uint(day.Month())) == 0 {
		return false
	}
	ofMonth := s.spec.Dom&(1<<uint(day.Day())) != 0
	ofWeek := s.spec.Dow&(1<<uint(day.Weekday())) != 0
	if (s.spec.Dom|s.spec.Dow)&everyDay != 0 {
		return ofMonth && ofWeek
	}
	return ofMonth || ofWeek
}
