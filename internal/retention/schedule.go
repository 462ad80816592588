package retention

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	_ "time/tzdata" // where the machine has no time zones

	"github.com/robfig/cron/v3"
)

// leastInterval is the least time between two ticks, in ms. Whoever writes less
// has most likely left out the unit.
const leastInterval = 1000

// A Schedule says when a job is due: at its ticks. They depend on nothing but
// the schedule, so all processes agree on them, however often they restart.
// The zero Schedule has none.
type Schedule struct {
	interval int64 // between ticks, in ms; 0 for cron
	text     string
	spec     *cron.SpecSchedule // nil for an interval
}

// Every makes a Schedule whose ticks are the multiples of the interval since the
// Unix epoch, in ms. So the ticks of days are at midnight UTC, and those of weeks
// on Thursdays. Less than a second is an error.
func Every(interval int64) (Schedule, error) {
	if interval < leastInterval {
		return Schedule{}, errors.New("must be at least 1s: a number without a unit is milliseconds")
	}
	return Schedule{interval: interval}, nil
}

// The most that a schedule may be, in bytes.
const longestCron = 200

// cronParser reads five fields, or a word such as @daily.
var cronParser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// ParseCron makes a Schedule of the five fields of cron, minute, hour, day of the
// month, month and day of the week, or of @hourly, @daily, @weekly, @monthly or
// @yearly. Its clock is UTC's, unless CRON_TZ= and the name of a time zone are in
// front of it.
//
// Where a clock is put forward, the ticks of the hour that is left out are an
// hour earlier or later; where it is put back, those of the hour that comes twice
// are there once. A text that has no tick is an error, which does not repeat it.
func ParseCron(text string) (Schedule, error) {
	if len(text) > longestCron {
		return Schedule{}, fmt.Errorf("must not be longer than %d bytes", longestCron)
	}
	fields := strings.Fields(text)
	zone := time.UTC
	// The parser knows the zone too, but it fails hard where nothing follows it.
	if len(fields) > 0 {
		for _, prefix := range []string{"CRON_TZ=", "TZ="} {
			name, ok := strings.CutPrefix(fields[0], prefix)
			if !ok {
				continue
			}
			var err error
			// "Local" is another one on each machine.
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
	if !ok { // @every, whose ticks depend on when the process was started
		return Schedule{}, bad
	}
	spec.Location = zone
	s := Schedule{text: strings.Join(strings.Fields(text), " "), spec: spec}
	if _, ok := s.nextCron(time.Unix(0, 0)); !ok {
		return Schedule{}, errors.New("has no time at all, such as the 30th of February")
	}
	return s, nil
}

// IsZero reports whether the Schedule has no ticks.
func (s Schedule) IsZero() bool { return s.interval == 0 && s.spec == nil }

// Equal reports whether two Schedules were made of the same.
func (s Schedule) Equal(other Schedule) bool {
	return s.interval == other.interval && s.text == other.text
}

// String is the interval as a duration, or the text of cron with single spaces.
func (s Schedule) String() string {
	if s.spec == nil {
		return FormatDuration(s.interval)
	}
	return s.text
}

// Previous returns the latest tick that is not after now, in UTC; the zero time
// if there is none.
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

// Next returns the earliest tick after a time, in UTC; the zero time if there is
// none.
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

// sinceTick is how long ago the last tick of an interval was at a time, in ms.
func (s Schedule) sinceTick(ms int64) int64 {
	since := ms % s.interval
	if since < 0 {
		since += s.interval
	}
	return since
}

// mostDays is more than lie between two ticks of any cron: the 29th of February
// is missing in some years that are divisible by 100.
const mostDays = 3000

// nextCron and previousCron go through the same days, so that they agree. A tick
// that falls into a change of the clock may be on the day beside its own: so they
// begin a day early, and look at one more than they need.
func (s Schedule) nextCron(after time.Time) (tick time.Time, found bool) {
	day := civil(after.In(s.spec.Location)).AddDate(0, 0, -1)
	for range mostDays {
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
	for range mostDays {
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

// civil is the day of a time, without its zone.
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

// everyDay is the bit of the parser that says that a field of days was a star.
const everyDay = 1 << 63

// includes reports whether a day has ticks. As ever in cron, a day of the month
// and a day of the week that are both given mean either.
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
