package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"lethe/internal/matrix"
	"lethe/internal/retention"
)

const (
	hourInMS = 3600 * 1000
	dayInMS  = 24 * hourInMS
)

const (
	retentionDoc = `How long events are kept. The keys are those of Synapse; Lethe adds abandoned, clamp_reads, max_queued,
		max_running, rows_per_second and serve_configuration, and cron and name of a purge job. Durations here are whole
		numbers with a unit: s, m, h, d (24 hours), w (7 days) or y (365 days). A number without a unit is in milliseconds.`

	abandonedDoc = `If retention.abandoned.enabled is true, Lethe deletes abandoned rooms with everything in them. A room is abandoned when users of this server
		have been in it, but for a long time none of them has been a member, has been invited or has asked to join. Held
		rooms are never deleted. Lethe checks a room once more before it deletes it. retention.enabled has no
		effect on this.`
)

func retentionSettings(r *Retention) []setting {
	rules := &r.Rules
	return append([]setting{
		row("retention.enabled", "false", boolean(&rules.Enabled),
			`Whether retention policies have an effect: the policies of rooms and the default policy.`),
		row("retention.default_policy.min_lifetime", "", lifetime(&rules.DefaultPolicy.MinLifetime).like("1d"),
			`The min_lifetime of rooms whose own policy does not set it. Lethe only shows it to users: it has no other
			effect.`),
		row("retention.default_policy.max_lifetime", "", lifetime(&rules.DefaultPolicy.MaxLifetime).like("1y"),
			`How long events are kept in rooms whose own policy does not set max_lifetime. Without this setting, such
			rooms keep their events.`),
		row("retention.allowed_lifetime_min", "", lifetime(&rules.AllowedLifetimeMin).like("1d"),
			`The shortest lifetime by which Lethe purges a room. If the room's policy has a shorter one, this one counts.`),
		row("retention.allowed_lifetime_max", "", lifetime(&rules.AllowedLifetimeMax).like("1y"),
			`The longest lifetime by which Lethe purges a room. If the room's policy has a longer one, this one counts.`),
		row("retention.clamp_reads", "false", boolean(&rules.ClampReads),
			`Which lifetime hides events. Users do not see an event that is older than the lifetime, even if it is not
			purged yet. If false, this is the lifetime of the policy, as in Synapse. If true, it is the lifetime by
			which the room is purged: the lifetime of the policy, limited by retention.allowed_lifetime_min and
			retention.allowed_lifetime_max.`),
		row("retention.serve_configuration", "false", boolean(&r.ServeConfiguration),
			`Whether the API tells users the default policy and the allowed lifetimes. It has an effect only if
			retention is enabled.`),
		row("retention.purge_jobs", "[{interval: 1d}]", purgeJobs(&rules.Jobs).like(purgeJobsExample),
			`The jobs that purge rooms. Each job purges the rooms whose max_lifetime is longer than the job's
			shortest_max_lifetime and at most its longest_max_lifetime; a bound that is not set does not limit. An
			empty list is the same as the default, one job that purges all rooms once a day. In a variable, write the
			list as YAML or JSON in one line.

			A job runs at the multiples of its interval, counted from 1970 in UTC. Instead of an interval, a job can
			have a cron: five fields, such as "30 3 * * *", or @hourly, @daily, @weekly, @monthly or @yearly. Cron
			times are in UTC unless the text starts with a time zone, such as CRON_TZ=Europe/Berlin.

			The name of a job must be unique. By default, Lethe derives it from the bounds and the interval or cron. A
			job without a name of its own is therefore a new job when one of these changes.`),
		row("retention.max_queued", "1000", number(&r.Limits.MaxQueued, 1, 100_000),
			`How many purges of retention can be queued or running at once, in all workers together. A sweep queues one
			purge for each room that has expired events, and waits while this number is reached.`),
		row("retention.max_running", "2", number(&r.Limits.MaxRunning, 1, 1000),
			`How many purges of retention run at once in all workers together. One worker runs at most
			worker.concurrency of them, in addition to its other jobs. Use the same value for every worker.`),
		row("retention.rows_per_second", "0", number(&r.Limits.RowsPerSecond, 0, 10_000_000),
			`How many rows per second the purges of retention delete, in all workers together; 0 means no limit. An event
			counts as one row, with everything that belongs to it, and so does a state group. Use the same value for
			every worker.`),
	}, abandonedSettings(&rules.Abandoned)...)
}

// purgeJobsExample is the default list, with the other keys of a job.
const purgeJobsExample = `
- interval: 1d
  #shortest_max_lifetime: 3d
  #longest_max_lifetime: 1y
  #name: long-lived`

// abandonedSettings are the settings of a. A deleted room cannot be restored, so
// these settings cannot be empty.
func abandonedSettings(a *retention.Abandoned) []setting {
	return []setting{
		row("retention.abandoned.enabled", "false", boolean(&a.Enabled),
			`Whether abandoned rooms are deleted.`),
		row("retention.abandoned.after", "30d", lifetimeFrom(&a.After, dayInMS),
			`How long all users of this server must have been gone from a room before it is abandoned.`),
		row("retention.abandoned.cool_off", "1d", lifetimeFrom(&a.CoolOff, hourInMS),
			`How long a room must stay abandoned before Lethe deletes it. If one look in this time finds that the room is
			not abandoned, the time starts again.`),
		row("retention.abandoned.interval", "", interval(&a.Interval).like("12h"),
			`How often Lethe looks for abandoned rooms. If neither this nor retention.abandoned.cron is set, Lethe looks
			once a day. Set only one of the two. The name of the job is abandoned-rooms.`),
		row("retention.abandoned.cron", "", cron(&a.Cron),
			`When Lethe looks for abandoned rooms, instead of an interval: five fields of cron, such as "30 4 * * *", or
			one of the words that retention.purge_jobs allows.`),
		row("retention.abandoned.max_per_run", "100", number(&a.MaxPerRun, 1, 10_000),
			`The largest number of rooms that one look deletes. The next look deletes more.`),
		row("retention.abandoned.exclude", "", exclusions(&a.Exclude).like(`["!abc:example.org", "#main:example.org", example.org]`),
			`Rooms that are never deleted: ids of rooms, aliases of rooms, and names of servers. The name of a server
			stands for all rooms that were created there. In a variable, separate the items with commas.`),
	}
}

// isLifetime describes a duration of the retention settings.
const isLifetime = "a duration with its unit s, m, h, d, w or y, such as 12h or 30d, or a number of milliseconds"

// lifetime is a duration of the retention settings, in ms. An empty text is nil.
func lifetime(field **int64) value {
	return parsed(field, isLifetime, func(text string) (*int64, error) {
		if text == "" {
			return nil, nil
		}
		ms, err := retention.ParseDuration(text)
		return &ms, err
	})
}

// lifetimeFrom is a duration of the retention settings that has a minimum, in ms.
func lifetimeFrom(field *int64, minimum int64) value {
	allowed := "at least " + retention.FormatDuration(minimum)
	v := parsed(field, isLifetime+", "+allowed, func(text string) (int64, error) {
		ms, err := retention.ParseDuration(text)
		if err == nil && ms < minimum {
			err = fmt.Errorf("must be %s: a number without a unit is milliseconds", allowed)
		}
		return ms, err
	})
	v.allowed = allowed
	return v
}

// interval is a schedule that is an interval. An empty text is no schedule.
func interval(field *retention.Schedule) value {
	return schedule(field, isLifetime+", at least 1s", func(text string) (retention.Schedule, error) {
		ms, err := retention.ParseDuration(text)
		if err != nil {
			return retention.Schedule{}, err
		}
		return retention.Every(ms)
	})
}

// cron is a schedule that is written as for cron. An empty text is no schedule.
func cron(field *retention.Schedule) value {
	return schedule(field, "the five fields of cron, such as `30 3 * * *`, or @hourly, @daily, @weekly, @monthly or @yearly", retention.ParseCron)
}

func schedule(field *retention.Schedule, is string, parse func(string) (retention.Schedule, error)) value {
	return parsed(field, is, func(text string) (retention.Schedule, error) {
		if text == "" {
			return retention.Schedule{}, nil
		}
		return parse(text)
	})
}

// exclusions is a list of rooms that are never abandoned. It may be empty.
func exclusions(field *[]string) value {
	return listOf(field, "a list of room ids, room aliases or server names", func(list []string, item string) ([]string, error) {
		switch {
		case !excludes(item):
			return nil, errors.New("must be the id of a room, an alias or the name of a server, " +
				"such as !abc:example.org, #main:example.org or example.org")
		case slices.Contains(list, item):
			return list, nil
		}
		return append(list, item), nil
	})
}

// excludes reports whether a text can exclude rooms.
func excludes(text string) bool {
	if alias, ok := strings.CutPrefix(text, "#"); ok {
		server, hasServer := matrix.ServerOf(alias)
		return hasServer && matrix.ValidServerName(server)
	}
	return matrix.ValidRoomID(text) || matrix.ValidServerName(text)
}
