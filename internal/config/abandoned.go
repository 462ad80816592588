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

func defaultAbandoned() retention.Abandoned {
	return retention.Abandoned{After: 30 * dayInMS, CoolOff: dayInMS, MaxPerRun: 100}
}

// abandoned are the settings of a. What is deleted by them is gone for good, so none
// of them can be nothing.
func abandoned(a *retention.Abandoned) []setting {
	return []setting{
		{path: "retention.abandoned.after", set: lifetimeFrom(&a.After, dayInMS)},
		{path: "retention.abandoned.cool_off", set: lifetimeFrom(&a.CoolOff, hourInMS)},
		{path: "retention.abandoned.cron", set: schedule(&a.Cron, retention.ParseCron)},
		{path: "retention.abandoned.enabled", set: boolean(&a.Enabled)},
		{path: "retention.abandoned.exclude", set: exclusions(&a.Exclude), list: true},
		{path: "retention.abandoned.interval", set: schedule(&a.Interval, func(text string) (retention.Schedule, error) {
			ms, err := retention.ParseDuration(text)
			if err != nil {
				return retention.Schedule{}, err
			}
			return retention.Every(ms)
		})},
		{path: "retention.abandoned.max_per_run", set: number(&a.MaxPerRun, 1, 10_000)},
	}
}

// lifetimeFrom sets a duration of the retention settings, in ms, from the least on.
func lifetimeFrom(field *int64, least int64) func(string) error {
	return func(text string) error {
		ms, err := retention.ParseDuration(text)
		if err != nil {
			return err
		}
		if ms < least {
			return fmt.Errorf("must be at least %s: a number without a unit is milliseconds", retention.FormatDuration(least))
		}
		*field = ms
		return nil
	}
}

// schedule sets when a job is due, or nothing.
func schedule(field *retention.Schedule, parse func(string) (retention.Schedule, error)) func(string) error {
	return func(text string) error {
		if text == "" {
			*field = retention.Schedule{}
			return nil
		}
		parsed, err := parse(text)
		if err == nil {
			*field = parsed
		}
		return err
	}
}

// exclusions sets the rooms that are never abandoned, or none.
func exclusions(field *[]string) func(string) error {
	return func(text string) error {
		var excluded []string
		for text := range strings.SplitSeq(text, ",") {
			text = strings.TrimSpace(text)
			if text == "" {
				continue
			}
			alias, isAlias := strings.CutPrefix(text, "#")
			server, hasServer := matrix.ServerOf(alias)
			switch {
			case isAlias && hasServer && matrix.ValidServerName(server):
			case matrix.ValidRoomID(text), matrix.ValidServerName(text):
			default:
				return fmt.Errorf("number %d: %w", len(excluded)+1, errExclusion)
			}
			if !slices.Contains(excluded, text) {
				excluded = append(excluded, text)
			}
		}
		*field = excluded
		return nil
	}
}

var errExclusion = errors.New("must be the id of a room, an alias or the name of a server, " +
	"such as !abc:example.org, #main:example.org or example.org")
