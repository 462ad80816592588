package retention_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/retention"
)

func at(t require.TestingT, text string) time.Time {
	parsed, err := time.Parse(time.RFC3339Nano, text)
	require.NoError(t, err)
	return parsed.UTC()
}

func parseCron(t require.TestingT, text string) retention.Schedule {
	schedule, err := retention.ParseCron(text)
	require.NoError(t, err, text)
	return schedule
}

func every(t require.TestingT, interval int64) retention.Schedule {
	schedule, err := retention.Every(interval)
	require.NoError(t, err)
	return schedule
}

func TestTicks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		schedule             retention.Schedule
		now, previous, after string
	}{
		{every(t, day), "2026-03-01T05:06:07.008Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{every(t, day), "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{every(t, day), "2026-02-28T23:59:59.999999999Z", "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"},
		{every(t, 7*day), "2026-03-01T05:06:07Z", "2026-02-26T00:00:00Z", "2026-03-05T00:00:00Z"},
		{every(t, 12*hour), "1969-12-31T13:00:00Z", "1969-12-31T12:00:00Z", "1970-01-01T00:00:00Z"},
		{every(t, 1000), "1969-12-31T23:59:58.5Z", "1969-12-31T23:59:58Z", "1969-12-31T23:59:59Z"},
		{every(t, math.MaxInt64), "2026-03-01T00:00:00Z", "1970-01-01T00:00:00Z", "+292278994-08-17T07:12:55.807Z"},

		{parseCron(t, "30 3 * * *"), "2026-03-01T03:29:59Z", "2026-02-28T03:30:00Z", "2026-03-01T03:30:00Z"},
		{parseCron(t, "30 3 * * *"), "2026-03-01T03:30:00Z", "2026-03-01T03:30:00Z", "2026-03-02T03:30:00Z"},
		{parseCron(t, "@daily"), "2026-03-01T12:00:00Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"},
		{parseCron(t, "@hourly"), "2026-03-01T12:00:01Z", "2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"},
		{parseCron(t, "@weekly"), "2026-03-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-08T00:00:00Z"},
		{parseCron(t, "@monthly"), "2026-03-31T12:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"},
		{parseCron(t, "@yearly"), "2026-03-31T12:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{parseCron(t, "*/20 9-10 * * mon-fri"), "2026-03-01T12:00:00Z", "2026-02-27T10:40:00Z", "2026-03-02T09:00:00Z"},
		{parseCron(t, "0 0 13 * 5"), "2026-03-08T12:00:00Z", "2026-03-06T00:00:00Z", "2026-03-13T00:00:00Z"},   // either
		{parseCron(t, "0 0 29 2 *"), "2097-01-01T00:00:00Z", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"},   // eight years
		{parseCron(t, "0 0 29 2 *"), "2104-02-28T23:59:59.9Z", "2096-02-29T00:00:00Z", "2104-02-29T00:00:00Z"}, // back, too
		{parseCron(t, "CRON_TZ=Europe/Berlin 0 3 * * *"), "2026-07-01T00:59:00Z", "2026-06-30T01:00:00Z", "2026-07-01T01:00:00Z"},
		{parseCron(t, "TZ=Europe/Berlin 0 3 * * *"), "2026-01-10T00:00:00Z", "2026-01-09T02:00:00Z", "2026-01-10T02:00:00Z"},
		// The clock goes forward from 2:00 to 3:00 on the 29th of March, and back
		// from 3:00 to 2:00 on the 25th of October.
		{parseCron(t, "CRON_TZ=Europe/Berlin 30 2 * * *"), "2026-03-28T12:00:00Z", "2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z"},
		{parseCron(t, "CRON_TZ=Europe/Berlin 30 2 * * *"), "2026-03-29T12:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"},
		{parseCron(t, "CRON_TZ=Europe/Berlin 30 2 * * *"), "2026-10-25T12:00:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"},
		// In these zones midnight was skipped, and once a whole day.
		{parseCron(t, "CRON_TZ=America/Sao_Paulo 0 0 * * *"), "2018-11-04T12:00:00Z", "2018-11-04T02:00:00Z", "2018-11-05T02:00:00Z"},
		{parseCron(t, "CRON_TZ=Pacific/Apia 0 12 * * *"), "2011-12-30T09:00:00Z", "2011-12-29T22:00:00Z", "2011-12-30T22:00:00Z"},
	} {
		name := test.schedule.String() + " " + test.now
		now := at(t, test.now)
		require.Equal(t, test.previous, test.schedule.Previous(now).Format(time.RFC3339Nano), name)
		if strings.HasPrefix(test.after, "+") { // years that no layout can parse
			require.Equal(t, int64(math.MaxInt64), test.schedule.Next(now).UnixMilli(), name)
		} else {
			require.Equal(t, test.after, test.schedule.Next(now).Format(time.RFC3339Nano), name)
		}
		job := retention.Job{Schedule: test.schedule}
		require.Equal(t, test.schedule.Previous(now), job.Previous(now))
		require.Equal(t, test.schedule.Next(now), job.Next(now))
	}

	require.True(t, every(t, math.MaxInt64).Previous(time.UnixMilli(math.MinInt64)).IsZero())
	require.True(t, every(t, math.MaxInt64).Next(time.UnixMilli(math.MaxInt64)).IsZero())
	none := retention.Schedule{}
	require.True(t, none.IsZero())
	require.True(t, none.Previous(time.UnixMilli(0)).IsZero())
	require.True(t, none.Next(time.UnixMilli(0)).IsZero())
	require.False(t, every(t, day).IsZero())
	require.False(t, parseCron(t, "@daily").IsZero())
}

func TestInvalidSchedules(t *testing.T) {
	t.Parallel()
	for _, interval := range []int64{math.MinInt64, -1, 0, 60, 999} {
		_, err := retention.Every(interval)
		require.ErrorContains(t, err, "must be at least 1s", interval)
	}
	const fields, zone, never = "must be the five fields of cron", "must name a time zone", "never occurs"
	for text, want := range map[string]string{
		"": fields, " ": fields, "* * * *": fields, "* * * * * *": fields, "60 * * * *": fields, "* 24 * * *": fields,
		"* * 0 * *": fields, "* * * 13 *": fields, "* * * * 7": fields, "*/0 * * * *": fields, "1-0 * * * *": fields, "-1 * * * *": fields,
		"hunter2 * * * *": fields, "@reboot": fields, "@every 1h": fields, "@every x": fields, "@": fields,
		"CRON_TZ=Europe/Berlin": fields, "CRON_TZ=Europe/Berlin ": fields, "TZ=UTC TZ=UTC * * * * *": fields,
		"CRON_TZ=": zone, "CRON_TZ= * * * * *": zone, "TZ=": zone, "CRON_TZ=Local @daily": zone, "CRON_TZ=Europe/Hunter2 @daily": zone,
		"CRON_TZ=../../etc/passwd @daily": zone, "CRON_TZ=/etc/localtime @daily": zone,
		"0 0 30 2 *": never, "0 0 31 4,6,9,11 *": never, ", * * * *": never, "* , * * *": never, "* * , * ,": never, "* * * , *": never,
		strings.Repeat("*", 201): "must not be longer than 200 bytes",
	} {
		_, err := retention.ParseCron(text)
		require.ErrorContains(t, err, want, "%q", text)
		require.NotContains(t, err.Error(), "unter2")
	}
}

func TestScheduleText(t *testing.T) {
	t.Parallel()
	require.Equal(t, "12h", every(t, 12*hour).String())
	require.Equal(t, "CRON_TZ=UTC 0 3 * * *", parseCron(t, " CRON_TZ=UTC\t0  3 * * * ").String())
	require.Empty(t, cmp.Diff(parseCron(t, "0 3 * * *"), parseCron(t, "0  3 * * *")))
	require.NotEmpty(t, cmp.Diff(parseCron(t, "0 3 * * *"), parseCron(t, "0 4 * * *")))
	require.NotEmpty(t, cmp.Diff(every(t, day), every(t, hour)))
}

// drawCron draws a text of five fields that has ticks.
func drawCron(t *rapid.T) string {
	field := func(label string, least, most int) string {
		few := rapid.SliceOfN(rapid.IntRange(least, most), 1, 3)
		switch rapid.IntRange(0, 4).Draw(t, label+" kind") {
		case 0, 1:
			return "*"
		case 2:
			return fmt.Sprintf("*/%d", rapid.IntRange(1, most).Draw(t, label))
		case 3:
			low := rapid.IntRange(least, most).Draw(t, label)
			return fmt.Sprintf("%d-%d/%d", low, rapid.IntRange(low, most).Draw(t, label+" to"), rapid.IntRange(1, 9).Draw(t, label+" step"))
		}
		return strings.ReplaceAll(strings.Trim(fmt.Sprint(few.Draw(t, label)), "[]"), " ", ",")
	}
	return strings.Join([]string{
		field("minute", 0, 59), field("hour", 0, 23), field("day", 1, 28), field("month", 1, 12), field("weekday", 0, 6),
	}, " ")
}

// TestTicksOfCron compares the ticks with those of the parser's library, which returns
// only the next tick and fails at changes of the clocks.
func TestTicksOfCron(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := drawCron(t)
		schedule := parseCron(t, text)
		library, err := cron.ParseStandard(text)
		require.NoError(t, err)
		now := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "now"), rapid.Int64Range(0, 1).Draw(t, "ns")).UTC()
		next := library.Next(now)
		if next.IsZero() { // the library gives up after five years
			return
		}
		require.Equal(t, next, schedule.Next(now))
		require.Equal(t, next, schedule.Previous(next))
		require.Equal(t, schedule.Previous(now), schedule.Previous(next.Add(-1)))
	})
}

// TestTicksAgree checks that the ticks before and after a time are neighbours, also at
// changes of the clocks. Schedulers depend on this.
func TestTicksAgree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var schedule retention.Schedule
		if rapid.Bool().Draw(t, "interval") {
			schedule = every(t, rapid.Int64Range(1000, 1e12).Draw(t, "ms"))
		} else {
			zone := rapid.SampledFrom([]string{
				"", "CRON_TZ=Europe/Berlin ", "CRON_TZ=America/Sao_Paulo ", "CRON_TZ=Australia/Lord_Howe ", "CRON_TZ=Asia/Kolkata ",
			}).Draw(t, "zone")
			schedule = parseCron(t, zone+drawCron(t))
		}
		now := time.UnixMilli(rapid.Int64Range(-4e12, 4e12).Draw(t, "now")).UTC()
		previous, next := schedule.Previous(now), schedule.Next(now)
		require.False(t, previous.After(now))
		require.True(t, next.After(now))
		require.Equal(t, previous, schedule.Previous(previous))
		require.Equal(t, next, schedule.Next(previous))
		require.Equal(t, next, schedule.Previous(next))
		require.Equal(t, previous, schedule.Previous(next.Add(-1)))
		require.Zero(t, next.Nanosecond()%1e6)
	})
}
