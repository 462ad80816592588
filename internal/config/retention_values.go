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
