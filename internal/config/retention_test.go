package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"lethe/internal/retention"
)

const badDuration = "must be a whole number, from 0, with its unit s, m, h, d, w or y, such as 12h or 30d; without one it is milliseconds"

func TestRetentionSection(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		yaml string // of the mapping, in one line
		want []string
	}{
		"empty":               {`{}`, nil},
		"null":                {``, nil},
		"empty policy":        {`{default_policy: }`, nil},
		"no jobs":             {`{purge_jobs: []}`, nil},
		"alias":               {`{purge_jobs: [&a {interval: &i 1d, longest_max_lifetime: *i}, {name: b, cron: '@daily'}]}`, nil},
		"equal":               {`{default_policy: {min_lifetime: 1d, max_lifetime: 24h}, allowed_lifetime_min: 1d, allowed_lifetime_max: 86400s}`, nil},
		"job with equal":      {`{purge_jobs: [{interval: 1d, shortest_max_lifetime: 1d, longest_max_lifetime: 1d}]}`, nil},
		"unknown key":         {`{life: 1d}`, []string{"1: retention.life: no such setting"}},
		"unknown policy key":  {`{default_policy: {lifetime: 1d}}`, []string{"1: retention.default_policy.lifetime: no such setting"}},
		"unknown job key":     {`{purge_jobs: [{interval: 1d, intervall: 1d}]}`, []string{"1: retention.purge_jobs: number 1: intervall: no such setting"}},
		"key that is a value": {`{purge_jobs: [{interval: 1d, 'a secret': 1d}]}`, []string{"1: retention.purge_jobs: number 1: no such setting"}},
		"key that is a list":  {`{purge_jobs: [{? [a] : 1d, interval: 1d}]}`, []string{"1: retention.purge_jobs: number 1: no such setting"}},
		"merge key":           {`{purge_jobs: [&a {interval: 1d}, {<<: *a}]}`, []string{"1: retention.purge_jobs: number 2: no such setting"}},
		"key twice":           {`{purge_jobs: [{interval: 1d, interval: 2d}]}`, []string{"1: retention.purge_jobs: number 1: interval: is there twice"}},
		"boolean":             {`{allowed_lifetime_min: true}`, []string{"1: retention.allowed_lifetime_min: " + badDuration}},
		"float":               {`{allowed_lifetime_max: 1.5}`, []string{"1: retention.allowed_lifetime_max: " + badDuration}},
		"negative":            {`{default_policy: {max_lifetime: -1}}`, []string{"1: retention.default_policy.max_lifetime: " + badDuration}},
		"overflow":            {`{default_policy: {min_lifetime: 300000000y}}`, []string{"1: retention.default_policy.min_lifetime: " + badDuration}},
		"bad suffix":          {`{default_policy: {min_lifetime: 1 fortnight}}`, []string{"1: retention.default_policy.min_lifetime: " + badDuration}},
		"list for a duration": {`{allowed_lifetime_max: [1d]}`, []string{"1: retention.allowed_lifetime_max: must be one value, not a list or a mapping"}},
		"text for a policy":   {`{default_policy: 1d}`, []string{"1: retention.default_policy: must be a mapping: indented lines of key: value"}},
		"a lone job":          {`{purge_jobs: {interval: 1d}}`, []string{"1: retention.purge_jobs: " + errMappings.Error()}},
		"text for the jobs":   {`{purge_jobs: hunter2}`, []string{"1: retention.purge_jobs: " + errMappings.Error()}},
		"null for the jobs":   {`{purge_jobs: }`, []string{`1: retention.purge_jobs: has no value: leave the key out for its default, or write ""`}},
		"text for a job":      {`{purge_jobs: [hunter2]}`, []string{"1: retention.purge_jobs: number 1: must be a mapping: indented lines of key: value"}},
		"list in a job":       {`{purge_jobs: [{interval: [1d]}]}`, []string{"1: retention.purge_jobs: number 1: interval: must be one value, not a list or a mapping"}},
		"null in a job":       {`{purge_jobs: [{interval: }]}`, []string{"1: retention.purge_jobs: number 1: interval: has no value: leave the key out"}},
		"nothing in a job":    {`{purge_jobs: [{interval: ''}]}`, []string{"1: retention.purge_jobs: number 1: interval: has no value: leave the key out"}},
		"short interval":      {`{purge_jobs: [{interval: 60}]}`, []string{"1: retention.purge_jobs: number 1: interval: must be at least 1s: a number without a unit is milliseconds"}},
		"bad cron":            {`{purge_jobs: [{cron: hunter2}]}`, []string{"1: retention.purge_jobs: number 1: cron: must be the five fields of cron, such as 30 3 * * *, or @hourly, @daily, @weekly, @monthly or @yearly"}},
		"bad name":            {`{purge_jobs: [{interval: 1d, name: a b}]}`, []string{"1: retention.purge_jobs: number 1: name: must be 1 to 64 letters, digits, dots, hyphens or underscores, the first a letter or digit"}},
		"both":                {`{purge_jobs: [{interval: 1d, cron: '@daily'}]}`, []string{"1: retention.purge_jobs: number 1: has an interval and a cron: only one of them can say when it is due"}},
		"no interval":         {`{purge_jobs: [{}]}`, []string{"1: retention.purge_jobs: number 1: A retention policy's purge jobs configuration must have the 'interval' key set."}},
		"same name":           {`{purge_jobs: [{interval: 1d, name: a}, {interval: 2d}, {interval: 3d, name: a}]}`, []string{"1: retention.purge_jobs: number 3: has the same name as number 1: every job needs its own name"}},
		"same job":            {`{purge_jobs: [{interval: 1d, longest_max_lifetime: 1w}, {interval: 24h, longest_max_lifetime: 7d}]}`, []string{"1: retention.purge_jobs: number 2: has the same name as number 1: every job needs its own name"}},
		"job bounds":          {`{purge_jobs: [{interval: 1d, shortest_max_lifetime: 2d, longest_max_lifetime: 1d}]}`, []string{"1: retention.purge_jobs: number 1: A retention policy's purge jobs configuration's 'shortest_max_lifetime' value can not be greater than its 'longest_max_lifetime' value."}},
		"default policy":      {`{default_policy: {min_lifetime: 2d, max_lifetime: 1d}}`, []string{"retention: The default retention policy's 'min_lifetime' can not be greater than its 'max_lifetime'"}},
		"allowed":             {`{allowed_lifetime_min: 2d, allowed_lifetime_max: 1d}`, []string{"retention: Invalid retention policy limits: 'allowed_lifetime_min' can not be greater than 'allowed_lifetime_max'"}},
		"too many jobs":       {`{purge_jobs: [` + strings.Repeat(`{interval: 1d},`, retention.MaxJobs+1) + `]}`, []string{"1: retention.purge_jobs: must not have more than 100 jobs"}},
		"all at once": {`{enabled: yes, default_policy: {max_lifetime: x}, allowed_lifetime_min: 2d, allowed_lifetime_max: 1d, purge_jobs: [{interval: x, cron: x}, 1, {name: -}]}`, []string{
			"1: retention.enabled: must be true or false",
			"1: retention.default_policy.max_lifetime: " + badDuration,
			"1: retention.purge_jobs: number 1: interval: " + badDuration,
			"1: retention.purge_jobs: number 1: cron: must be the five fields of cron, such as 30 3 * * *, or @hourly, @daily, @weekly, @monthly or @yearly",
			"1: retention.purge_jobs: number 2: must be a mapping: indented lines of key: value",
			"1: retention.purge_jobs: number 3: name: must be 1 to 64 letters, digits, dots, hyphens or underscores, the first a letter or digit",
			"retention: Invalid retention policy limits: 'allowed_lifetime_min' can not be greater than 'allowed_lifetime_max'",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load([]string{write(t, "retention: "+test.yaml+"\n")})
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			var want []string
			for _, line := range test.want {
				if !strings.HasPrefix(line, "retention:") {
					line = "lethe.yaml:" + line
				}
				want = append(want, line)
			}
			require.Equal(t, want, problems(t, err))
		})
	}
}

func TestPurgeJobsInAVariable(t *testing.T) {
	t.Parallel()
	load := func(text string) ([]retention.Job, error) {
		config, err := Load([]string{"LETHE_RETENTION_PURGE_JOBS=" + text, write(t, "retention: {purge_jobs: [{interval: 9d}]}\n")})
		return config.Retention.Rules.Jobs, err
	}
	for _, text := range []string{"", "[]", " [ ] ", "# nothing\n[]"} {
		jobs, err := load(text)
		require.NoError(t, err, text)
		require.Empty(t, cmp.Diff([]retention.Job{retention.Everything()}, jobs))
	}
	jobs, err := load("- interval: 12h\n- interval: 2d\n  name: slow\n")
	require.NoError(t, err)
	require.Equal(t, "all-every-12h", jobs[0].Name)
	require.Equal(t, "slow", jobs[1].Name)

	for text, want := range map[string]string{
		"null":                      "LETHE_RETENTION_PURGE_JOBS: " + errMappings.Error(),
		"hunter2":                   "LETHE_RETENTION_PURGE_JOBS: " + errMappings.Error(),
		"*hunter2":                  "LETHE_RETENTION_PURGE_JOBS: " + errMappings.Error(),
		"[hunter2":                  "LETHE_RETENTION_PURGE_JOBS: " + errMappings.Error(),
		"{interval: 1d}":            "LETHE_RETENTION_PURGE_JOBS: " + errMappings.Error(),
		"# nothing":                 "LETHE_RETENTION_PURGE_JOBS: " + errMappings.Error(),
		"[hunter2]":                 "LETHE_RETENTION_PURGE_JOBS: number 1: must be a mapping: indented lines of key: value",
		`[{"interval": true}]`:      "LETHE_RETENTION_PURGE_JOBS: number 1: interval: " + badDuration,
		"[{interval: 1d}, {}]":      "LETHE_RETENTION_PURGE_JOBS: number 2: A retention policy's purge jobs configuration must have the 'interval' key set.",
		"[&a [*a], {interval: *a}]": "LETHE_RETENTION_PURGE_JOBS: number 2: interval: must be one value, not a list or a mapping",
	} {
		_, err := load(text)
		require.Contains(t, problems(t, err), want, "%q", text)
	}
}

func TestDefaultNamesStay(t *testing.T) {
	t.Parallel()
	names := func(jobs string) (names []string) {
		config, err := Load([]string{"LETHE_RETENTION_PURGE_JOBS=" + jobs})
		require.NoError(t, err)
		for _, job := range config.Retention.Rules.Jobs {
			names = append(names, job.Name)
		}
		return names
	}
	const a, b, c = `{interval: 12h, longest_max_lifetime: 3d}`, `{interval: 1d, shortest_max_lifetime: 3d}`, `{cron: "0 3 * * *"}`
	first := names("[" + a + "," + b + "]")
	require.Equal(t, []string{first[1], names("[" + c + "]")[0], first[0]}, names("["+b+","+c+","+a+"]"))
	require.Equal(t, first[:1], names("[{longest_max_lifetime: 72h, interval: 43200000}]"))
}

func TestHomeserverFile(t *testing.T) {
	t.Parallel()
	const synapse = `
# As it was written for Synapse, by hand.
server_name: "example.org"
pid_file: /homeserver.pid
server_name: &name example.org
database: {name: psycopg2, args: {password: hunter2, host: [a]}}
listeners:
  - &l {port: 8008, type: http}
  - {<<: *l, port: 8009}
database.url: hunter2
worker: 3
? {a: b}
: hunter2
retention:
  enabled: Yes
  unheard_of: hunter2
  default_policy:
    min_lifetime: 1d
    max_lifetime: 1y
    other: 1
  allowed_lifetime_min: null
  allowed_lifetime_max: 31536000000
  purge_jobs:
    - {longest_max_lifetime: 3d, interval: 12h, shortest_max_lifetime: null, cron: hunter2, name: "hunter2 too"}
    - shortest_max_lifetime: 3d
      interval: 1d
`
	path := homeserverYAML(t, synapse)
	config, err := Load([]string{"LETHE_HOMESERVER_CONFIG_FILE=" + path})
	require.NoError(t, err)
	const day = int64(24 * 3600 * 1000)
	every := func(ms int64) retention.Schedule {
		schedule, err := retention.Every(ms)
		require.NoError(t, err)
		return schedule
	}
	want := Default()
	want.ServerName = "example.org"
	want.Homeserver.ConfigFile = path
	want.Retention.Rules = retention.Config{
		Abandoned:          defaultAbandoned(),
		Enabled:            true,
		DefaultPolicy:      retention.Policy{MinLifetime: new(day), MaxLifetime: new(365 * day)},
		AllowedLifetimeMax: new(365 * day),
		Jobs: []retention.Job{
			{Name: "up-to-3d-every-12h", Schedule: every(day / 2), LongestMaxLifetime: new(3 * day)},
			{Name: "over-3d-every-1d", Schedule: every(day), ShortestMaxLifetime: new(3 * day)},
		},
	}
	require.Empty(t, cmp.Diff(want, config, cmpopts.EquateComparable(netip.Prefix{})))

	// Every other source overrides the file, one setting at a time, and can unset it.
	config, err = Load([]string{
		write(t, "homeserver: {config_file: "+path+"}\nserver_name: a.org\nretention: {enabled: false, default_policy: {max_lifetime: 2y}}\n"),
		"LETHE_SERVER_NAME=b.org", "LETHE_RETENTION_ALLOWED_LIFETIME_MAX=", "LETHE_RETENTION_PURGE_JOBS=",
	}, ForDatabase)
	require.Equal(t, []string{"database.url: must be set, here or as LETHE_DATABASE_URL"}, problems(t, err))
	require.Empty(t, config)
	config, err = Load([]string{
		write(t, "homeserver: {config_file: "+path+"}\nserver_name: a.org\nretention: {enabled: false, default_policy: {max_lifetime: 2y}}\n"),
		"LETHE_SERVER_NAME=b.org", "LETHE_RETENTION_ALLOWED_LIFETIME_MAX=", "LETHE_RETENTION_PURGE_JOBS=",
	})
	require.NoError(t, err)
	want.ServerName = "b.org"
	want.Retention.Rules = retention.Config{
		Abandoned:     defaultAbandoned(),
		DefaultPolicy: retention.Policy{MinLifetime: new(day), MaxLifetime: new(730 * day)},
		Jobs:          []retention.Job{retention.Everything()},
	}
	require.Empty(t, cmp.Diff(want, config, cmpopts.EquateComparable(netip.Prefix{})))

	// It counts as much as any for what must be set; what is empty does not.
	need := []string{"LETHE_DATABASE_URL=" + databaseURL, "LETHE_REDIS_URL=" + redisURL, "LETHE_HOMESERVER_CONFIG_FILE=" + path}
	_, err = Load(need, ForAPI, ForWorker)
	require.NoError(t, err)
	_, err = Load(append(need, "LETHE_SERVER_NAME="), ForAPI, ForWorker)
	require.Equal(t, []string{"server_name: must be set, here or as LETHE_SERVER_NAME"}, problems(t, err))

	// A variable that is empty says that there is none.
	config, err = Load([]string{write(t, "homeserver: {config_file: "+path+"}\n"), "LETHE_HOMESERVER_CONFIG_FILE="})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(Default(), config, cmpopts.EquateComparable(netip.Prefix{})))
}

func TestHomeserverFilesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		yaml string
		want []string // none if nil
	}{
		"nothing of ours":   {"a: b\n", nil},
		"nulls":             {"server_name:\nretention:\n", nil},
		"null keys":         {"retention: {enabled: , default_policy: , allowed_lifetime_min: ~, purge_jobs: null}\n", nil},
		"no jobs":           {"retention: {purge_jobs: []}\n", nil},
		"aliases":           {"a: &a {enabled: off}\nretention: *a\n", nil},
		"boolean":           {"retention: {enabled: 'yes'}\n", []string{"homeserver.yaml:1: retention.enabled: must be true or false"}},
		"server name":       {"server_name: hunter2/x\n", []string{"homeserver.yaml:1: server_name: must be a Matrix server name, such as example.org"}},
		"list for a name":   {"server_name: [hunter2]\n", []string{"homeserver.yaml:1: server_name: must be one value, not a list or a mapping"}},
		"text for section":  {"\nretention: hunter2\n", []string{"homeserver.yaml:2: retention: must be a mapping: indented lines of key: value"}},
		"text for policy":   {"retention:\n  default_policy: hunter2\n", []string{"homeserver.yaml:2: retention.default_policy: must be a mapping: indented lines of key: value"}},
		"durations":         {"retention:\n  allowed_lifetime_min: -1\n  default_policy: {max_lifetime: 1.5}\n", []string{"homeserver.yaml:2: retention.allowed_lifetime_min: " + badDuration, "homeserver.yaml:3: retention.default_policy.max_lifetime: " + badDuration}},
		"jobs":              {"retention:\n  purge_jobs:\n  - longest_max_lifetime: 1d\n  - interval: true\n", []string{"homeserver.yaml:4: retention.purge_jobs: number 2: interval: " + badDuration}},
		"no interval":       {"retention:\n  purge_jobs:\n  - longest_max_lifetime: 1d\n", []string{"homeserver.yaml:3: retention.purge_jobs: number 1: A retention policy's purge jobs configuration must have the 'interval' key set."}},
		"contradiction":     {"retention: {allowed_lifetime_min: 2, allowed_lifetime_max: 1}\n", []string{"retention: Invalid retention policy limits: 'allowed_lifetime_min' can not be greater than 'allowed_lifetime_max'"}},
		"empty":             {"", []string{"homeserver.yaml: the file is empty"}},
		"list":              {"- hunter2\n", []string{"homeserver.yaml: the file must be a mapping: lines of key: value"}},
		"syntax":            {"a: {\n", []string{"homeserver.yaml: yaml: line 1: did not find expected node content"}},
		"too large":         {"a: " + strings.Repeat("b", 1<<20), []string{"homeserver.config_file: the file is larger than 1 MiB"}},
		"many aliases":      {bomb(), nil},
		"alias of itself":   {"retention: &a {default_policy: *a, purge_jobs: &b [*b]}\n", []string{"homeserver.yaml:1: retention.purge_jobs: number 1: must be a mapping: indented lines of key: value"}},
		"key that is a map": {"? {retention: {}}\n: {}\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Load([]string{"LETHE_HOMESERVER_CONFIG_FILE=" + homeserverYAML(t, test.yaml)})
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			require.Equal(t, test.want, problems(t, err))
		})
	}

	missing := filepath.Join(t.TempDir(), "missing.yaml")
	_, err := Load([]string{
		write(t, "homeserver: {config_file: "+missing+"}\n"),
		"LETHE_DATABASE_URL=" + databaseURL, "LETHE_REDIS_URL=" + redisURL,
	}, ForAPI)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Equal(t, []string{"homeserver.config_file: open " + missing + ": no such file or directory"}, problems(t, err))
	// What is wrong with the setting itself is said once.
	_, err = Load([]string{write(t, "homeserver: {config_file: [a]}\n")})
	require.Equal(t, []string{"lethe.yaml:1: homeserver.config_file: must be one value, not a list or a mapping"}, problems(t, err))
}

// bomb is YAML that would be huge with its aliases put in.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := range 30 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	return b.String()
}

func TestOwnFileIsBounded(t *testing.T) {
	t.Parallel()
	_, err := Load([]string{write(t, "dialect: now\n#"+strings.Repeat(" ", 1<<20))}, ForWorker)
	require.Equal(t, []string{"LETHE_CONFIG: the file is larger than 1 MiB"}, problems(t, err))
}

// FuzzRetention looks for a retention section, ours or Synapse's, that panics, or
// that gives rules that contradict themselves.
func FuzzRetention(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "enabled: true", "default_policy: {min_lifetime: 1d, max_lifetime: 1y}", "allowed_lifetime_min: 5",
		"purge_jobs: [{interval: 1d, longest_max_lifetime: 3d, name: a}, {cron: 'CRON_TZ=UTC 1-5/2 * * jan sun'}]",
		"purge_jobs: &a [*a, {interval: 9223372036854775807}]", "purge_jobs: [{<<: {interval: 1d}}]", "!!binary x: y", "purge_jobs: [{cron: 'TZ='}]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, section string) {
		var document yaml.Node
		if yaml.Unmarshal([]byte(section), &document) != nil || len(document.Content) == 0 {
			return
		}
		root := &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Value: "retention"}, resolve(document.Content[0])}}
		for _, apply := range []func(*loader){
			func(l *loader) { (&file{loader: l, lines: map[string]int{}}).section("", root) },
			func(l *loader) { (&synapseFile{loader: l}).apply(root) },
		} {
			config := Default()
			l := loader{settings: map[string]setting{}, unset: map[string]bool{}}
			for _, s := range settings(&config) {
				l.settings[s.path] = s
			}
			apply(&l)
			rules := config.Retention.Rules
			if len(rules.Jobs) == 0 || len(rules.Jobs) > retention.MaxJobs || len(retention.CheckJobs(rules.Jobs)) > 0 {
				t.Errorf("%q gives %+v", section, rules.Jobs)
			}
			for _, ms := range []*int64{
				rules.AllowedLifetimeMin, rules.AllowedLifetimeMax, rules.DefaultPolicy.MinLifetime, rules.DefaultPolicy.MaxLifetime,
			} {
				if ms != nil && *ms < 0 {
					t.Errorf("%q gives %+v", section, rules)
				}
			}
			rules.Enabled = true
			for _, w := range rules.Warnings() {
				_ = w.String()
			}
		}
	})
}
