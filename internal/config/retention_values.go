package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"lethe/internal/matrix"
	"lethe/internal/retention"
)

// isLifetime describes a duration of the retention settings.
const isLifetime = "a duration with its unit s, m, h, d, w or y, such as 12h or 30d, or a number of milliseconds"

// lifetime is a duration of the retention settings, in ms. An empty text is nil.
func lifetime(field **int64) value {
	return value{is: isLifetime, set: func(text string) error {
		if text == "" {
			*field = nil
			return nil
		}
		ms, err := retention.ParseDuration(text)
		if err != nil {
			return err
		}
		*field = &ms
		return nil
	}}
}

// lifetimeFrom is a duration of the retention settings that has a minimum, in ms.
func lifetimeFrom(field *int64, minimum int64) value {
	allowed := "at least " + retention.FormatDuration(minimum)
	return value{is: isLifetime + ", " + allowed, allowed: allowed, set: func(text string) error {
		ms, err := retention.ParseDuration(text)
		if err != nil {
			return err
		}
		if ms < minimum {
			return fmt.Errorf("must be %s: a number without a unit is milliseconds", allowed)
		}
		*field = ms
		return nil
	}}
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
	return value{is: is, set: func(text string) error {
		if text == "" {
			*field = retention.Schedule{}
			return nil
		}
		parsed, err := parse(text)
		if err == nil {
			*field = parsed
		}
		return err
	}}
}

var errExclusion = errors.New("must be the id of a room, an alias or the name of a server, " +
	"such as !abc:example.org, #main:example.org or example.org")

// exclusions is a list of rooms that are never abandoned. It may be empty.
func exclusions(field *[]string) value {
	return value{is: "a list of room ids, room aliases or server names", list: true, set: func(text string) error {
		var excluded []string
		for _, item := range items(text) {
			if !excludes(item) {
				return fmt.Errorf("number %d: %w", len(excluded)+1, errExclusion)
			}
			if !slices.Contains(excluded, item) {
				excluded = append(excluded, item)
			}
		}
		*field = excluded
		return nil
	}}
}

// excludes reports whether a text can exclude rooms.
func excludes(text string) bool {
	if alias, ok := strings.CutPrefix(text, "#"); ok {
		server, hasServer := matrix.ServerOf(alias)
		return hasServer && matrix.ValidServerName(server)
	}
	return matrix.ValidRoomID(text) || matrix.ValidServerName(text)
}
