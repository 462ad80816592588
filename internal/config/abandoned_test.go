package config

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/retention"
)

func defaultAbandoned() retention.Abandoned {
	return retention.Abandoned{After: 30 * dayInMS, CoolOff: dayInMS, MaxPerRun: 100}
}

func TestAbandonedSettings(t *testing.T) {
	t.Parallel()
	config, err := Load([]string{write(t, `
retention:
  purge_jobs: []
  abandoned:
    enabled: true
    after: 2w
    cool_off: 3h
    cron: "30 4 * * *"
    max_per_run: 7
    exclude: ["!a:x.org", "#b:x.org", x.org, "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM", x.org]
`)})
	require.NoError(t, err)
	cron, err := retention.ParseCron("30 4 * * *")
	require.NoError(t, err)
	require.Equal(t, retention.Abandoned{
		Enabled: true, After: 14 * dayInMS, CoolOff: 3 * hourInMS, Cron: cron, MaxPerRun: 7,
		Exclude: []string{"!a:x.org", "#b:x.org", "x.org", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"},
	}, config.Retention.Rules.Abandoned)
	require.True(t, config.Retention.Rules.Abandoned.Job().Schedule.Equal(cron))

	config, err = Load([]string{"LETHE_RETENTION_ABANDONED_INTERVAL=12h", "LETHE_RETENTION_ABANDONED_EXCLUDE= x.org ,, #b:x.org"})
	require.NoError(t, err)
	require.Equal(t, "12h", config.Retention.Rules.Abandoned.Job().Schedule.String())
	require.Equal(t, []string{"x.org", "#b:x.org"}, config.Retention.Rules.Abandoned.Exclude)
	require.Equal(t, "1d", Default().Retention.Rules.Abandoned.Job().Schedule.String())

	_, err = Load([]string{write(t, `
retention:
  purge_jobs: [{interval: 1d, name: abandoned-rooms}]
  abandoned: {enabled: soon, after: 23h, cool_off: 30m, cron: often, interval: 5, max_per_run: 0, exclude: [x.org, hunter2 is secret], only: 1}
`), "LETHE_RETENTION_ABANDONED_AFTER=30"})
	for _, wrong := range []string{
		"retention.purge_jobs: number 1: name: must not be the name of the job of retention.abandoned",
		"retention.abandoned.enabled: must be true or false", "retention.abandoned.after: must be at least 1d",
		"retention.abandoned.cool_off: must be at least 1h", "retention.abandoned.cron: ", "retention.abandoned.interval: must be at least 1s",
		"retention.abandoned.max_per_run: must be a whole number from 1 to 10000",
		"retention.abandoned.exclude: number 2: must be the id of a room", "retention.abandoned.only: no such setting",
		"LETHE_RETENTION_ABANDONED_AFTER: must be at least 1d",
	} {
		require.ErrorContains(t, err, wrong)
	}
	require.NotContains(t, err.Error(), "hunter2")

	_, err = Load([]string{"LETHE_RETENTION_ABANDONED_INTERVAL=12h", "LETHE_RETENTION_ABANDONED_CRON=@daily"})
	require.ErrorContains(t, err, "retention: abandoned has an interval and a cron")
}
