package retention_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/retention"
)

func TestCovers(t *testing.T) {
	t.Parallel()
	bounded := retention.Job{ShortestMaxLifetime: new(day), LongestMaxLifetime: new(3 * day)}
	unbounded := retention.Job{}
	none := retention.Policy{}
	for name, test := range map[string]struct {
		job       retention.Job
		room      *retention.Policy
		byDefault retention.Policy
		want      bool
	}{
		"the shortest is out":            {job: bounded, room: some(day)},
		"more than the shortest is in":   {job: bounded, room: some(day + 1), want: true},
		"the longest is in":              {job: bounded, room: some(3 * day), want: true},
		"more than the longest is out":   {job: bounded, room: some(3*day + 1)},
		"default at the shortest":        {job: bounded, byDefault: *some(day)},
		"default over the shortest":      {job: bounded, byDefault: *some(day + 1), want: true},
		"default at the longest":         {job: bounded, byDefault: *some(3 * day), want: true},
		"default over the longest":       {job: bounded, byDefault: *some(3*day + 1)},
		"bounds that hold nothing":       {job: retention.Job{ShortestMaxLifetime: new(day), LongestMaxLifetime: new(day)}, room: some(day)},
		"no bounds":                      {job: unbounded, room: some(math.MaxInt64), want: true},
		"no bounds, no policy":           {job: unbounded, byDefault: *some(day), want: true},
		"no bounds, empty policy":        {job: unbounded, room: &none, byDefault: *some(day), want: true},
		"bounds, empty policy":           {job: bounded, room: &none, byDefault: *some(2 * day), want: true},
		"R1: default in, the room's out": {job: bounded, room: some(hour), byDefault: *some(2 * day)},
		"default out, the room's in":     {job: bounded, room: some(2 * day), byDefault: *some(hour), want: true},
		"R2: nothing limits it":          {job: unbounded, room: &retention.Policy{MinLifetime: new(hour)}},
		"nothing at all":                 {job: unbounded},
		"R3: zero":                       {job: unbounded, room: some(0), want: true},
		"R3: zero is not the default":    {job: bounded, room: some(0), byDefault: *some(2 * day)},
		"R3: zero is over no bound":      {job: retention.Job{ShortestMaxLifetime: new(int64(0))}, room: some(0)},
		"R3: negative is zero":           {job: retention.Job{LongestMaxLifetime: new(int64(0))}, room: some(math.MinInt64), want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, test.want, test.job.Covers(test.room, test.byDefault))
		})
	}
}

// drawJobs draws jobs with small bounds, of which many are equal.
func drawJobs(t *rapid.T) []retention.Job {
	bound := func(label string) *int64 {
		return rapid.OneOf(rapid.Just[*int64](nil), rapid.Custom(func(t *rapid.T) *int64 {
			return new(rapid.Int64Range(0, 8).Draw(t, label))
		})).Draw(t, label)
	}
	var jobs []retention.Job
	for i := range rapid.IntRange(0, 5).Draw(t, "jobs") {
		job := retention.Job{
			Name: fmt.Sprint(i), Schedule: every(t, day),
			ShortestMaxLifetime: bound("shortest"), LongestMaxLifetime: bound("longest"),
		}
		if job.ShortestMaxLifetime != nil && job.LongestMaxLifetime != nil && *job.ShortestMaxLifetime > *job.LongestMaxLifetime {
			job.ShortestMaxLifetime, job.LongestMaxLifetime = job.LongestMaxLifetime, job.ShortestMaxLifetime
		}
		jobs = append(jobs, job)
	}
	return jobs
}

// TestJobsNeverPurgeByAWrongLifetime checks that a room is purged by its own lifetime, or
// by the default one if it has none, whichever jobs cover it.
func TestJobsNeverPurgeByAWrongLifetime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		config := retention.Config{
			Enabled: true, DefaultPolicy: retention.Policy{MaxLifetime: drawLifetime(t, "default")}, Jobs: drawJobs(t),
		}
		room := drawPolicy(t, "room")
		now := time.UnixMilli(100)
		own := config.DefaultPolicy.MaxLifetime
		if room != nil && room.MaxLifetime != nil {
			own = room.MaxLifetime
		}
		expired, expires := config.ExpiredBefore(room, now)
		require.Equal(t, own != nil, expires)
		if expires {
			require.Equal(t, since(now, max(*own, 0)), expired)
		}
		for _, job := range config.Jobs {
			within := own != nil &&
				(job.ShortestMaxLifetime == nil || max(*own, 0) > *job.ShortestMaxLifetime) &&
				(job.LongestMaxLifetime == nil || max(*own, 0) <= *job.LongestMaxLifetime)
			require.Equal(t, within, job.Covers(room, config.DefaultPolicy))
		}
	})
}

// TestWarningsReportEveryGap checks that a lifetime is in a reported gap exactly if no
// job covers it, and in a reported overlap exactly if several jobs do.
func TestWarningsReportEveryGap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		config := retention.Config{Enabled: true, Jobs: drawJobs(t)}
		warnings := config.Warnings()
		told := func(about retention.WarningKind, lifetime int64) bool {
			return slices.ContainsFunc(warnings, func(w retention.Warning) bool {
				return w.Kind == about && (w.Over == nil || lifetime > *w.Over) && (w.UpTo == nil || lifetime <= *w.UpTo)
			})
		}
		for lifetime := range int64(11) {
			var covering []string
			for _, job := range config.Jobs {
				if job.Covers(some(lifetime), retention.Policy{}) {
					covering = append(covering, job.Name)
				}
			}
			require.Equal(t, len(covering) == 0, told(retention.Gap, lifetime), lifetime)
			require.Equal(t, len(covering) > 1, told(retention.Overlap, lifetime), lifetime)
		}
		for _, w := range warnings {
			require.NotEmpty(t, w.String())
			if w.Kind == retention.Overlap {
				middle := int64(0)
				if w.Over != nil {
					middle = *w.Over + 1
				}
				for _, job := range config.Jobs {
					if slices.Contains(w.Jobs, job.Name) {
						require.True(t, job.Covers(some(middle), retention.Policy{}))
					}
				}
			}
		}
		config.Enabled = false
		require.Empty(t, config.Warnings())
	})
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	job := func(name string, shortest, longest *int64) retention.Job {
		return retention.Job{Name: name, Schedule: every(t, day), ShortestMaxLifetime: shortest, LongestMaxLifetime: longest}
	}
	for name, test := range map[string]struct {
		config retention.Config
		want   []string
	}{
		"all":      {retention.Config{Jobs: []retention.Job{retention.Everything()}}, nil},
		"adjacent": {retention.Config{Jobs: []retention.Job{job("b", new(3*day), nil), job("a", nil, new(3*day))}}, nil},
		"no jobs":  {retention.Config{}, []string{"no purge job covers a max_lifetime of any length: rooms with such a policy are never purged"}},
		"gaps": {retention.Config{Jobs: []retention.Job{job("a", new(day), new(3*day)), job("b", new(7*day), new(14*day))}}, []string{
			"no purge job covers a max_lifetime up to 1d: rooms with such a policy are never purged",
			"no purge job covers a max_lifetime over 3d and up to 1w: rooms with such a policy are never purged",
			"no purge job covers a max_lifetime over 2w: rooms with such a policy are never purged",
		}},
		"overlaps": {retention.Config{Jobs: []retention.Job{job("a", nil, nil), job("b", new(day), new(3*day)), job("c", new(2*day), nil)}}, []string{
			`the purge jobs ["a" "b"] both purge rooms with a max_lifetime over 1d and up to 3d`,
			`the purge jobs ["a" "c"] both purge rooms with a max_lifetime over 2d`,
		}},
		"idle": {retention.Config{Jobs: []retention.Job{retention.Everything(), job("a", new(day), new(day))}}, []string{
			`the purge job "a" never purges a room: no max_lifetime is within its bounds`,
		}},
		"default not covered": {retention.Config{DefaultPolicy: *some(day), Jobs: []retention.Job{job("a", new(day), nil)}}, []string{
			"no purge job covers a max_lifetime up to 1d: rooms with such a policy are never purged",
			"no purge job covers the default policy's max_lifetime of 1d: rooms without a policy are never purged",
		}},
		"default too long": {retention.Config{DefaultPolicy: *some(day), AllowedLifetimeMax: new(hour), Jobs: []retention.Job{retention.Everything()}}, []string{
			"the default policy's max_lifetime of 1d is outside the allowed lifetimes: rooms without a policy are purged by the nearest allowed one",
		}},
		"default too short": {retention.Config{DefaultPolicy: *some(0), AllowedLifetimeMin: new(hour), Jobs: []retention.Job{retention.Everything()}}, []string{
			"the default policy's max_lifetime of 0 is outside the allowed lifetimes: rooms without a policy are purged by the nearest allowed one",
		}},
		"default allowed": {retention.Config{
			DefaultPolicy: *some(day), AllowedLifetimeMin: new(day), AllowedLifetimeMax: new(day), Jobs: []retention.Job{retention.Everything()},
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.config.Enabled = true
			var got []string
			for _, w := range test.config.Warnings() {
				got = append(got, w.String())
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestDefaultNames(t *testing.T) {
	t.Parallel()
	for want, job := range map[string]retention.Job{
		"all-every-1d":                     retention.Everything(),
		"over-1d-up-to-1w-every-12h":       {Schedule: every(t, 12*hour), ShortestMaxLifetime: new(day), LongestMaxLifetime: new(7 * day)},
		"up-to-0-every-90m":                {Schedule: every(t, 3*hour/2), LongestMaxLifetime: new(int64(0))},
		"over-1y-at-0_3_*_*_*":             {Schedule: parseCron(t, "0 3 * * *"), ShortestMaxLifetime: new(365 * day)},
		"all-at-CRON_TZ=Asia/Tokyo_@daily": {Schedule: parseCron(t, "CRON_TZ=Asia/Tokyo @daily")},
	} {
		require.Equal(t, want, job.DefaultName())
	}
	require.Equal(t, "all-every-1d", retention.Everything().Name)

	for _, name := range []string{"a", "0", "short_lived.rooms-2", strings.Repeat("a", 64)} {
		require.NoError(t, retention.CheckJobName(name))
	}
	for _, name := range []string{"", "-a", "a b", "a\n", "ä", "a/b", strings.Repeat("a", 65)} {
		require.ErrorContains(t, retention.CheckJobName(name), "must be 1 to 64 letters", "%q", name)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	require.Empty(t, retention.Config{}.Check())
	require.Empty(t, retention.Config{
		DefaultPolicy:      retention.Policy{MinLifetime: new(day), MaxLifetime: new(day)},
		AllowedLifetimeMin: new(day), AllowedLifetimeMax: new(day),
	}.Check())
	var texts []string
	for _, err := range (retention.Config{
		DefaultPolicy:      retention.Policy{MinLifetime: new(day), MaxLifetime: new(hour)},
		AllowedLifetimeMin: new(day), AllowedLifetimeMax: new(hour),
	}.Check()) {
		texts = append(texts, err.Error())
	}
	require.Equal(t, []string{
		"The default retention policy's 'min_lifetime' can not be greater than its 'max_lifetime'",
		"Invalid retention policy limits: 'allowed_lifetime_min' can not be greater than 'allowed_lifetime_max'",
	}, texts)

	errs := retention.CheckJobs([]retention.Job{
		{Name: "a", Schedule: every(t, day), ShortestMaxLifetime: new(day), LongestMaxLifetime: new(day)},
		{Name: "b", ShortestMaxLifetime: new(day), LongestMaxLifetime: new(hour)},
		{Name: "a", Schedule: every(t, hour)},
	})
	got := map[string]int{}
	for _, e := range errs {
		got[e.Err.Error()] = e.Index
	}
	require.Empty(t, cmp.Diff(map[string]int{
		"A retention policy's purge jobs configuration must have the 'interval' key set.":                                                         1,
		"A retention policy's purge jobs configuration's 'shortest_max_lifetime' value can not be greater than its 'longest_max_lifetime' value.": 1,
		"has the same name as number 1: every job needs its own name":                                                                             2,
	}, got))
}
