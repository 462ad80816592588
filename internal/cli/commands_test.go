package cli

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"lethe/internal/command"
	"lethe/internal/holdfile"
	"lethe/internal/operator"
)

// everyCommand returns the commands that can run, by their paths without "lethe".
func everyCommand() map[string]*cobra.Command {
	found := map[string]*cobra.Command{}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		found[strings.TrimSpace(strings.TrimPrefix(c.CommandPath(), "lethe"))] = c
		for _, below := range c.Commands() {
			walk(below)
		}
	}
	root := New(nil, nil)
	command.Prepare(root)
	walk(root)
	return found
}

func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	for path, c := range everyCommand() {
		require.NotEmpty(t, c.Short, path)
		require.NotEmpty(t, c.Long, path)
		require.NotEmpty(t, c.Example, "%s has no example", path)
		c.Flags().VisitAll(func(f *pflag.Flag) { require.NotEmpty(t, f.Usage, "%s --%s", path, f.Name) })
		if path == "help" {
			continue
		}
		for _, flag := range []string{"--help", "--version"} {
			got := lethe(t, nil, nil, append(strings.Fields(path), flag)...)
			require.Equal(t, command.Done, got.status, "%s %s: %s", path, flag, got.stderr)
			require.Empty(t, got.stderr)
			require.NotEmpty(t, got.stdout)
		}
	}
}

// Every flag of the version before, with a single dash, and every one of its commands.
func TestEveryOldFlagGoesOn(t *testing.T) {
	t.Parallel()
	values := map[string]string{"database": "x", "case": "purge", "listen": "127.0.0.1:0", "for": "api", "room": "!a:x", "timeout": "1h"}
	commands := everyCommand()
	count := 0
	for path, names := range oldFlags {
		c := commands[path]
		require.NotNil(t, c, path)
		for _, name := range names {
			flag := c.Flags().Lookup(name)
			require.NotNil(t, flag, "%s -%s", path, name)
			args := append(strings.Fields(path), "-"+name)
			if flag.Value.Type() != "bool" {
				value := values[name]
				if value == "" {
					value = "7"
				}
				args = append(args, value)
			}
			got := lethe(t, nil, nil, append(args, "--help")...)
			require.Equal(t, command.Done, got.status, "%s: %s", args, got.stderr)
			require.Equal(t, fmt.Sprintf("lethe: -%s is an old form, which a later version refuses: write --%[1]s\n", name), got.stderr)
			count++
		}
	}
	require.Equal(t, 31, count)
}

func TestUnknownWordsAreNamed(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	const room = "!a:x"
	for _, test := range []struct{ args, want string }{
		{"", "Usage:"},
		{"jib list", `unknown command "jib"`},
		{"job lits", `"lits" for "lethe job": did you mean list?`},
		{"job list now", `"now"`},
		{"job list --limit 0", "--limit"},
		{"job list --room nonsense", `"nonsense" is not the id of a room`},
		{"room list --limit 0", "--limit must be at least 1"},
		{"job cancel --all-matching --room !a:x --limit 0", "--limit must be at least 1"},
		{"job cancel --all-matching --state running --room=", "--room must not be empty"},
		{"job cancel --all-matching --state running --requester=", "--requester must not be empty"},
		{"job cancel --all-matching --state running --since=", "--since must not be empty"},
		{"job cancel --all-matching --state running --before=", "--before must not be empty"},
		{"job list --state runing", `"runing" is not one of scheduled`},
		{"job list --kind purge", `"purge" is not one of purge_history`},
		{"job list --since yesterday", `"yesterday" is no time`},
		{"job list --output xml", "table, json, yaml"},
		{"job show", "needs the id of a job"},
		{"job cancel", "--all-matching"},
		{"job cancel --all-matching", "--room"},
		{"job cancel A --all-matching --room !a:x", `"A"`},
		{"job cancel A --room !a:x", "--all-matching"},
		{"job priority A", "critical, default, low"},
		{"job priority A --queue urgent", "critical, default, low"},
		{"job pause A --until soon", `"soon"`},
		{"job pause A --until 2020-01-31", `"2020-01-31" is in the past`},
		{"fleet pause --reason r --until 1970-01-01", `"1970-01-01" is in the past`},
		{"job list --since 1969-12-31", `"1969-12-31" is before 1970`},
		{"purge", "needs the id of a room"},
		{"purge nonsense --before 1d", `"nonsense" is not the id of a room`},
		{"purge !a:x", "either --event or --before"},
		{"purge !a:x --before 1d --event $e", "either --event or --before"},
		{"purge !a:x --event e", "begins with $"},
		{"purge !a:x --before never", `"never"`},
		{"purge !a:x --before 99999w", "before 1970"},
		{"purge !a:x --before 1d --grace 2y", `--grace: "2y" is not a duration`},
		{"delete !a:x --grace 53w", `--grace: "53w" is not a duration`},
		{"sweep --grace -1s", `--grace: "-1s" is not a duration`},
		{"purge !a:x --before 1d --timeout 1h", "--timeout needs --wait"},
		{"purge !a:x --before 1d --tolerance 1", "--tolerance needs --plan"},
		{"purge !a:x --before 1d --plan d --tolerance -1", "negative"},
		{"purge !a:x !b:x --before 1d", `"!b:x"`},
		{"delete !a:x --no-purge --force-purge", "cannot be together"},
		{"delete !a:x --message hello", "--new-room-user"},
		{"sweep history", `"history"`},
		{"plan sweep history", `"history"`},
		{"fleet set purge --jobs 1", `"purge"`},
		{"fleet set purge_history", "--rows-per-second or --jobs"},
		{"fleet set purge_history --jobs none", `"none"`},
		{"fleet set purge_history --jobs 0", `"0"`},
		{"fleet set purge_history --jobs 1001", "from 1 to 1000"},
		{"fleet set purge_history --rows-per-second 10000001", "from 1 to 10000000"},
		{"fleet pause --kind purge", `"purge"`},
		{"fleet pause --kind purge_history --room !a:x", "room"},
		{"hold set !a:x", "--reason"},
		{"hold set !a:x --reason", "--reason"},
		{"hold place --reason r", "not the id of a room"},
		{"hold set !a:x --reason r --by=", "--by"},
		{"migrate --holds f", "--down"},
		{"migrate --down 1 --embedded", "down"},
		{"dev --listen nonsense", `"nonsense"`},
		{"bench --case speed", `"speed"`},
		{"doctor --for soup", "--for"},
		{"doctor --left nonsense", "--left"},
		{"doctor --role=", "--role"},
		{"worker now", `"now"`},
		{"scheduler --wait", "--once"},
		{"scheduler --once --check", "--check"},
		{"version now", `"now"`},
	} {
		got := s.lethe(strings.Fields(test.args)...)
		require.Equal(t, command.BadUsage, got.status, "%s: %s", test.args, got.stderr)
		require.Contains(t, got.stderr, test.want, test.args)
		require.Empty(t, got.stdout, test.args)
	}
	require.Empty(t, s.asked(), "a wrong command has asked the API")
	got := lethe(t, nil, nil, "purge", room, "--before", "1d")
	require.Equal(t, command.BadUsage, got.status)
	require.Contains(t, got.stderr, "set LETHE_API_URL and LETHE_TOKEN, or use --database")
}

// The calls that scripts rely on.
func TestFixedCalls(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	const room = "!a/b:x"
	plan := s.lethe("plan", "purge", room, "--before", "2026-01-31", "--delete-local", "--output", "json")
	require.Equal(t, command.Done, plan.status, plan.stderr)
	require.Equal(t, float64(12345), plan.document(t)["events"])
	require.Equal(t, "1-12345-abc", plan.document(t)["digest"])
	require.Contains(t, plan.document(t), "new_field", "a field that this program does not know")
	require.Contains(t, plan.stderr, "lethe: it looks like seconds")
	plan.requireSafe(t)
	s.lethe("plan", "purge", room, "--event", "$e", "--exact", "--output", "json")

	purge := s.lethe("purge", room, "--event", "$e", "--plan", "1-2-3", "--tolerance", "5", "--grace", "24h", "--reason", "law", "--output", "json")
	require.Equal(t, command.Done, purge.status, purge.stderr)
	id := purge.document(t)["id"].(string)
	require.Equal(t, "queued", purge.document(t)["state"])
	require.Empty(t, purge.stderr)

	show := s.lethe("job", "show", id, "--output", "json")
	require.Equal(t, command.Done, show.status, show.stderr)
	document := show.document(t)
	require.Equal(t, id, document["id"])
	require.Equal(t, "queued", document["state"])
	require.Equal(t, float64(0), document["events"])
	require.Equal(t, map[string]any{}, document["deleted"])

	cancel := s.lethe("job", "cancel", id)
	require.Equal(t, command.Done, cancel.status, cancel.stderr)
	require.Contains(t, cancel.stdout, "done")
	cancel = s.lethe("job", "cancel", id, "--output", "json")
	require.Equal(t, command.Refused, cancel.status)
	require.Equal(t, "it has ended", cancel.document(t)["refusal"])
	require.Contains(t, cancel.stderr, "it has ended")

	require.Equal(t, command.Done, s.lethe("delete", room, "--block", "--no-purge").status)
	hold := s.lethe("hold", "set", room, "--reason", hostile)
	require.Equal(t, command.Done, hold.status, hold.stderr)
	hold.requireSafe(t)
	for _, args := range [][]string{{"purge", room, "--before", "90d"}, {"delete", room, "--output", "json"}} {
		held := s.lethe(args...)
		require.Equal(t, command.Refused, held.status)
		require.Contains(t, held.stderr, "is held: a\\x1b[2J")
		held.requireSafe(t)
		if args[0] == "purge" {
			require.Empty(t, held.stdout)
			continue
		}
		document := held.document(t)
		require.Contains(t, document["error"], "is held: a")
		require.Equal(t, float64(command.Refused), document["status"])
	}
	require.Equal(t, command.Refused, s.lethe("hold", "set", room, "--reason", "other").status)
	require.Equal(t, command.Done, s.lethe("hold", "lift", room).status)
	again := s.lethe("hold", "lift", room)
	require.Equal(t, command.Failed, again.status)
	require.Contains(t, again.stderr, "The room is not held (404 M_NOT_FOUND)")
	require.Equal(t, command.Refused, s.lethe("purge", room, "--before", "1d", "--plan", "drifted").status)

	asked := s.asked()
	require.Equal(t, []string{
		`POST /_lethe/v1/plans {"kind":"purge_history","room_id":"!a/b:x","before_ts":1769817600000,"delete_local_events":true}`,
		`POST /_lethe/v1/plans {"kind":"purge_history","room_id":"!a/b:x","before_event_id":"$e","exact":true}`,
		`POST /_lethe/v1/purges {"room_id":"!a/b:x","before_event_id":"$e","grace":"24h","plan":"1-2-3","tolerance":5,"reason":"law"}`,
		`GET /_lethe/v1/jobs/` + id,
		`POST /_lethe/v1/jobs/` + id + `/cancel {}`,
		`POST /_lethe/v1/jobs/` + id + `/cancel {}`,
		`GET /_lethe/v1/jobs/` + id, // what was refused
		`POST /_lethe/v1/deletes {"room_id":"!a/b:x","block":true,"purge":false}`,
	}, asked[:8])
	require.True(t, strings.HasPrefix(asked[8], `PUT /_lethe/v1/holds/%21a%2Fb:x {"reason":"a`) || strings.HasPrefix(asked[8], `PUT /_lethe/v1/holds/`+"%21a%2Fb%3Ax"), asked[8])
}

func TestVerbs(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	s.put(operator.Job{ID: "A", Kind: "purge_history", Room: "!" + hostile, State: "queued"})
	s.put(operator.Job{ID: "B", State: "failed", Ended: 1})
	before := time.Now().UnixMilli()
	for args, want := range map[string]string{
		"job pause A --until 2h --reason backup":       `POST /_lethe/v1/jobs/A/pause {"reason":"backup","until_ts":`,
		"job resume A --dry-run":                       `POST /_lethe/v1/jobs/A/resume {"dry_run":true}`,
		"job retry A":                                  `POST /_lethe/v1/jobs/A/retry {}`,
		"job priority A --queue critical":              `POST /_lethe/v1/jobs/A/priority {"queue":"critical"}`,
		"fleet pause --reason r --until 1800000000000": `PUT /_lethe/v1/pauses/all/all {"reason":"r","until_ts":1800000000000}`,
		"fleet pause --kind delete_room --reason r":    `PUT /_lethe/v1/pauses/kind/delete_room {"reason":"r"}`,
		"fleet resume --room !a:x":                     `DELETE /_lethe/v1/pauses/room/`,
		"fleet set purge_history --jobs default":       `PUT /_lethe/v1/fleet/purge_history {"jobs":null,"rows_per_second":500}`,
		"fleet set delete_room --rows-per-second 9":    `PUT /_lethe/v1/fleet/delete_room {"jobs":null,"rows_per_second":9}`,
		"fleet show":                     `GET /_lethe/v1/pauses`,
		"sweep retention --name nightly": `POST /_lethe/v1/sweeps {"kind":"retention_sweep","name":"nightly"}`,
		"sweep abandoned":                `POST /_lethe/v1/sweeps {"kind":"abandoned_sweep"}`,
		"plan delete !a:x":               `POST /_lethe/v1/plans {"kind":"delete_room","room_id":"!a:x"}`,
		"plan sweep":                     `POST /_lethe/v1/plans {"kind":"retention_sweep"}`,
		"room list --limit 5 --from p":   `GET /_lethe/v1/rooms?from=p&limit=5`,
		"room show !a:x":                 `GET /_lethe/v1/rooms/`,
		"job list --state queued,held --since 9 --limit 3": `GET /_lethe/v1/jobs?limit=3&since=9&state=queued&state=held`,
		"hold list --all": `GET /_lethe/v1/holds?released=true`,
	} {
		for _, format := range formats {
			got := s.lethe(append(strings.Fields(args), "--output", format)...)
			require.Equal(t, command.Done, got.status, "%s: %s", args, got.stderr)
			asked := s.asked()
			require.True(t, strings.HasPrefix(asked[len(asked)-1], want), "%s: %s", args, asked[len(asked)-1])
			got.requireSafe(t)
			switch format {
			case "json":
				got.document(t)
			case "yaml":
				var document map[string]any
				require.NoError(t, yaml.Unmarshal([]byte(got.stdout), &document), got.stdout)
				require.NotContains(t, got.stdout, "{")
			}
		}
	}
	for _, request := range s.asked() {
		var until int64
		if _, after, ok := strings.Cut(request, `{"reason":"backup","until_ts":`); ok {
			_, err := fmt.Sscan(strings.TrimSuffix(after, "}"), &until)
			require.NoError(t, err)
			require.InDelta(t, before+2*time.Hour.Milliseconds(), until, 60_000)
		}
	}

	// Some of several jobs refuse it.
	got := s.lethe("job", "cancel", "A", "B", "--dry-run", "--output", "json")
	require.Equal(t, command.Refused, got.status)
	require.Equal(t, float64(1), got.document(t)["done"])
	require.Equal(t, "lethe: job B cannot be cancelled: it has ended\n", got.stderr)
	got = s.lethe("job", "cancel", "A", "--dry-run")
	require.Contains(t, got.stdout, "would be done")
	got = s.lethe("job", "retry", "--all-matching", "--state", "failed", "--before", "7d", "--limit", "10", "--reason", "again")
	require.Equal(t, command.Refused, got.status)
	asked := s.asked()
	require.Regexp(t, `^POST /_lethe/v1/jobs/bulk {"verb":"retry","reason":"again","filter":{"state":\["failed"\],"before_ts":\d{13}},"limit":10}$`, asked[len(asked)-1])
	got = s.lethe("job", "cancel", "A", "missing")
	require.Equal(t, command.Failed, got.status)
	// An unknown id keeps the others from nothing, and the highest status counts.
	s.put(operator.Job{ID: "C", State: "queued"})
	got = s.lethe("job", "cancel", "missing", "C", "--output", "json")
	require.Equal(t, command.Failed, got.status)
	require.Equal(t, "cancelled", s.jobs["C"].State)
	require.Equal(t, float64(1), got.document(t)["done"])
	require.Equal(t, "lethe: job missing cannot be cancelled: No such job\n", got.stderr)
	got = s.lethe("job", "cancel", "missing", "C", "A")
	require.Equal(t, command.Refused, got.status)
	require.Equal(t, "lethe: job missing cannot be cancelled: No such job\njob C cannot be cancelled: it has ended\njob A cannot be cancelled: it has ended\n", got.stderr)
	require.Contains(t, got.stdout, "cancelled")
}

// A mistake in the id of a room is seen, and a fleet of which nothing is known is not empty.
func TestWhatOperatorsMustNotMiss(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	got := s.lethe("delete", "!typo:x", "--block", "--grace", "7d", "--output", "json")
	require.Equal(t, command.Done, got.status, got.stderr)
	require.Equal(t, "lethe: The database knows no room !typo:x\n", got.stderr)
	require.Contains(t, s.asked()[0], `"grace":"168h0m0s"`)
	got.document(t)

	got = s.lethe("fleet", "show")
	require.Regexp(t, `WORKER +STARTED \(UTC\) +JOBS\s+host:1 `, got.stdout)
	require.Regexp(t, `SCHEDULER +STARTED \(UTC\)\s+host:2 `, got.stdout)
	s.blind = true
	require.Equal(t, 2, strings.Count(s.lethe("fleet", "show").stdout, "unknown (needs Redis)"))
	require.Nil(t, s.lethe("fleet", "show", "-o", "json").document(t)["workers"])

	got = s.lethe("fleet", "resume", "--kind", "delete_room")
	require.Regexp(t, `^The pause of all jobs of the kind delete_room has ended\. `, got.stdout)
	require.NotContains(t, got.stdout, "PAUSED")

	got = s.lethe("plan", "sweep")
	for _, absent := range []string{"media", "users", "state groups", "local"} {
		require.NotContains(t, got.stdout, absent)
	}
	require.Regexp(t, `events +0\n`, got.stdout)
	require.NotContains(t, s.lethe("plan", "delete", "!a:x").stdout, "local")
}

func TestPages(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	s.put(operator.Job{ID: "A"})
	s.pages = 2
	got := s.lethe("job", "list", "--output", "json")
	require.Equal(t, "1", got.document(t)["next"])
	require.Contains(t, s.lethe("job", "list").stderr, "--from 1 lists the next page")
	got = s.lethe("job", "list", "--all", "--output", "json")
	require.Nil(t, got.document(t)["next"])
	require.Len(t, got.document(t)["jobs"], 3)
}

func TestJobDetails(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	s.put(operator.Job{
		ID: "A", Kind: "purge_history", Room: "!a:x", State: "held", Done: 1200, Total: new(int64(20000)), Events: 1000,
		WaitsFor: "hold: " + hostile, WaitsSince: 1, Deleted: map[string]int64{"events": 1000, "event_json": 1000},
		CompleteBelow: new(int64(77)), Worker: "host:" + hostile, LastFailure: hostile,
		Log: []operator.Event{{ID: 1, At: 1, Event: "pause", Who: "@a:x", Reason: hostile, Detail: []byte(`{"from":"running","until_ts":1000}`)}},
	})
	got := s.lethe("job", "show", "A")
	got.requireSafe(t)
	for _, want := range []string{"1,200/20,000", `hold: a\x1b[2J`, "below depth 77", "event_json", "was running, until 1970-01-01 00:00:01", "1970-01-01 00:00:00"} {
		require.Contains(t, got.stdout, want)
	}
	require.NotContains(t, got.stdout, "users kicked")
	for _, format := range []string{"json", "yaml"} {
		got := s.lethe("job", "show", "A", "-o", format)
		got.requireSafe(t)
		var job struct {
			WaitsFor string `yaml:"waits_for"`
		}
		require.NoError(t, yaml.Unmarshal([]byte(got.stdout), &job)) // YAML can read JSON
		require.Equal(t, "hold: "+hostile, job.WaitsFor)
	}
	require.Contains(t, s.lethe("room", "list").stdout, "123.5 MB")
	require.Contains(t, s.lethe("plan", "delete", "!a:x").stdout, "@a:x, @b:x")
}

func TestConnection(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(testToken+"\n"), 0o600))
	for name, test := range map[string]struct {
		environ []string
		status  int
		want    string
	}{
		"a token":       {[]string{"LETHE_API_URL=" + s.url, "LETHE_TOKEN=" + testToken}, command.Done, ""},
		"a file":        {[]string{"LETHE_API_URL=" + s.url + "/", "LETHE_TOKEN_FILE=" + file}, command.Done, ""},
		"no file":       {[]string{"LETHE_API_URL=" + s.url, "LETHE_TOKEN_FILE=/nowhere"}, command.Failed, "LETHE_TOKEN_FILE"},
		"both":          {[]string{"LETHE_API_URL=" + s.url, "LETHE_TOKEN=a", "LETHE_TOKEN_FILE=" + file}, command.BadUsage, "cannot both be set"},
		"a wrong token": {[]string{"LETHE_API_URL=" + s.url, "LETHE_TOKEN=hunter2"}, command.Failed, "(the access token is in LETHE_TOKEN) (401"},
		"no token":      {[]string{"LETHE_API_URL=" + s.url, "LETHE_TOKEN=a b"}, command.BadUsage, "no token has"},
		"no URL":        {[]string{"LETHE_API_URL=localhost:8470"}, command.BadUsage, "http://"},
		"a secret URL":  {[]string{"LETHE_API_URL=http://u:hunter2@localhost"}, command.BadUsage, "must not have a user"},
		"away":          {[]string{"LETHE_API_URL=http://127.0.0.1:1"}, command.Failed, "connection refused"},
		"another path":  {[]string{"LETHE_API_URL=" + s.url + "/other"}, command.Failed, "the status is 404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := lethe(t, test.environ, nil, "job", "list")
			require.Equal(t, test.status, got.status, got.stderr)
			require.Contains(t, got.stderr, test.want)
			require.NotContains(t, got.stderr, "hunter2")
		})
	}
}

func TestDatabase(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	var opened []string
	const mine, other = "postgres://lethe@127.0.0.1/mine", "postgres://lethe:hunter2@127.0.0.1/other"
	environ := []string{"LETHE_DATABASE_URL=" + mine, "LETHE_API_URL=http://127.0.0.1:1", "LETHE_TOKEN=x"}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"job", "list", "--database"}, userName() + " on " + mine},
		{[]string{"--database", "job", "list"}, userName() + " on " + mine},
		{[]string{"--database", other, "job", "list"}, userName() + " on " + other},
		{[]string{"job", "list", "--database=" + other}, userName() + " on " + other},
		{[]string{"job", "list", "--database", other}, userName() + " on " + other},
		{[]string{"hold", "set", "!a:x", "--reason", "r", "--by", "counsel", "--database"}, "counsel on " + mine},
	} {
		opened = nil
		got := lethe(t, environ, s.inProcess(&opened), test.args...)
		require.Equal(t, command.Done, got.status, got.stderr)
		require.Equal(t, []string{test.want, "closed"}, opened)
	}
	// Holds worked on the database before there was an API.
	opened = nil
	for _, args := range []string{"hold place -room !b:x -reason r -by counsel", "hold list", "hold release -room !b:x"} {
		require.Equal(t, command.Done, lethe(t, environ[:1], s.inProcess(&opened), strings.Fields(args)...).status)
	}
	require.Len(t, opened, 6)
	got := lethe(t, environ, s.inProcess(&opened), "job", "list", "--database=mysql://hunter2")
	require.Equal(t, command.BadUsage, got.status)
	require.NotContains(t, got.stderr, "hunter2")
	got = lethe(t, []string{"LETHE_SPEED=9"}, s.inProcess(&opened), "job", "list", "--database")
	require.Equal(t, command.Failed, got.status)
	require.Contains(t, got.stderr, "LETHE_SPEED")
}

// say writes an event of a stream.
func say(w http.ResponseWriter, id int, job operator.Job, wrapped bool) {
	text, _ := encodeLine(job)
	if wrapped {
		text = `{"event":"running","job":` + text + `}`
	}
	_, _ = fmt.Fprintf(w, ": a comment\nid: %d\nevent: job\ndata: %s\n\n", id, text)
	w.(http.Flusher).Flush()
}

func TestWaitFollowsTheEvents(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	running := operator.Job{ID: "JobNumber0000001", Kind: "purge_history", Room: "!" + hostile, State: "running", Updated: 2, Done: 5, Total: new(int64(10))}
	var lasts []string
	s.stream = func(w http.ResponseWriter, n int, last string) {
		lasts = append(lasts, last)
		if n == 1 {
			say(w, 7, running, false) // and then the connection is lost
			return
		}
		ended := running
		ended.State, ended.Updated, ended.Done, ended.Events = "complete", 3, 10, 10
		ended.Deleted = map[string]int64{"events": 10}
		say(w, 8, ended, true)
	}
	got := s.lethe("purge", "!a:x", "--before", "1d", "--wait", "--output", "json")
	require.Equal(t, command.Done, got.status, got.stderr)
	require.Equal(t, []string{"", "7"}, lasts)
	document := got.document(t)
	require.Equal(t, "complete", document["state"])
	require.Equal(t, map[string]any{"events": float64(10)}, document["deleted"])
	for _, want := range []string{"lethe: the job has the id JobNumber0000001", "5/10 events", "complete: deleted 10 events", `!a\x1b[2J`} {
		require.Contains(t, got.stderr, want)
	}
	got.requireSafe(t)
}

// Without a stream of events a wait looks at the job.
func TestWaitWithoutEvents(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]int{"complete": command.Done, "failed": command.Failed, "cancelled": command.Failed} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			s := newAPI(t)
			looks := 0
			s.onGet = func(job operator.Job) operator.Job {
				if looks++; looks == 2 {
					job.State, job.Error, job.Updated = state, "because\x1b[2J", 9
				}
				return job
			}
			got := s.lethe("delete", "!a:x", "--wait", "--output", "json")
			require.Equal(t, want, got.status, got.stderr)
			require.Equal(t, state, got.document(t)["state"])
			got.requireSafe(t)
		})
	}
}

func TestWaitTimesOut(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	s.stream = func(http.ResponseWriter, int, string) {}
	got := s.lethe("purge", "!a:x", "--before", "1d", "--wait", "--timeout", "200ms", "--output", "json")
	require.Equal(t, command.TimedOut, got.status, got.stderr)
	require.Contains(t, got.stderr, "200ms are over, and the jobs go on")
	require.Equal(t, "queued", got.document(t)["state"])
}

func TestWatchSeveral(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	for _, id := range []string{"A", "B", "C"} {
		s.put(operator.Job{ID: id, State: "running", Updated: 1})
	}
	s.stream = func(w http.ResponseWriter, _ int, _ string) {
		for i, job := range []operator.Job{
			{ID: "C", State: "failed", Updated: 2}, // not watched
			{ID: "A", State: "complete", Updated: 2},
			{ID: "A", State: "running", Updated: 1}, // has been overtaken
			{ID: "B", State: "complete", Updated: 2},
		} {
			say(w, i+1, job, i%2 == 0)
		}
	}
	got := s.lethe("job", "watch", "A", "B")
	require.Equal(t, command.Done, got.status, got.stderr)
	require.Equal(t, 4, strings.Count(got.stdout, "\n"), got.stdout)
	require.NotContains(t, got.stdout, " C ")
	got = s.lethe("job", "watch", "A", "B", "--output", "json")
	require.Equal(t, command.Done, got.status, got.stderr)
	require.Len(t, got.document(t)["jobs"], 2)
	got = s.lethe("job", "watch", "missing")
	require.Equal(t, command.Failed, got.status)
	require.Contains(t, got.stderr, "No such job")
}

// A watch of all jobs shows those that begin later, and ends when it is interrupted.
func TestWatchAll(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	s.put(operator.Job{ID: "A", State: "queued", Updated: 1})
	s.put(operator.Job{ID: "Old", State: "complete", Updated: 1})
	ctx, cancel := context.WithCancel(t.Context())
	s.stream = func(w http.ResponseWriter, n int, _ string) {
		if n > 1 {
			cancel()
			return
		}
		say(w, 1, operator.Job{ID: "Later", State: "running", Updated: 2}, true)
	}
	got := letheUntil(ctx, []string{"LETHE_API_URL=" + s.url}, nil, "job", "watch", "--output", "yaml")
	require.Equal(t, command.Done, got.status, got.stderr)
	require.Contains(t, got.stderr, "Later")
	require.NotContains(t, got.stderr, "Old")
	require.Contains(t, got.stdout, "- id: A\n")
}

func TestHoldFiles(t *testing.T) {
	t.Parallel()
	s := newAPI(t)
	for _, room := range []string{"!a:x", "!b:x"} {
		require.Equal(t, command.Done, s.lethe("hold", "set", room, "--reason", "case "+room+hostile).status)
	}
	path := filepath.Join(t.TempDir(), "holds.json")
	got := s.lethe("hold", "export", path)
	require.Equal(t, command.Done, got.status, got.stderr)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "2 holds are in "+path)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	require.Equal(t, command.Failed, s.lethe("hold", "export", path).status)
	require.Equal(t, command.Done, s.lethe("hold", "export", path, "--overwrite").status)
	require.Equal(t, command.Failed, s.lethe("hold", "export", "/nowhere/holds.json").status)
	printed := s.lethe("hold", "export", "-")
	require.Len(t, printed.document(t)["holds"], 2)
	printed.requireSafe(t)

	exported, err := exportedHolds(path)
	require.NoError(t, err)
	require.Len(t, exported, 2)

	require.Equal(t, command.Done, s.lethe("hold", "lift", "!a:x").status)
	require.Equal(t, command.Done, s.lethe("hold", "lift", "!b:x").status)
	require.Equal(t, command.Done, s.lethe("hold", "set", "!b:x", "--reason", "another").status)
	got = s.lethe("hold", "import", path, "--output", "json")
	require.Equal(t, command.Refused, got.status, got.stderr)
	require.Len(t, got.document(t)["holds"], 1)
	require.Len(t, got.document(t)["refused"], 1)
	require.Contains(t, got.stderr, "1 of 2 rooms is held for another reason")
	require.Equal(t, "case !a:x"+hostile, s.held["!a:x"].Reason)
	require.Equal(t, "another", s.held["!b:x"].Reason)

	text, err := os.ReadFile(path)
	require.NoError(t, err)
	for name, broken := range map[string]string{
		"edited":        strings.Replace(string(text), "!a:x", "!c:x", 1),
		"cut off":       string(text[:len(text)/2]),
		"another file":  `{"holds": []}`,
		"another field": strings.Replace(string(text), `"holds"`, `"hold": 1, "holds"`, 1),
		"a new format":  strings.Replace(string(text), `"lethe_holds": 1`, `"lethe_holds": 2`, 1),
	} {
		require.NoError(t, os.WriteFile(path, []byte(broken), 0o600))
		got := s.lethe("hold", "import", path)
		require.Equal(t, command.Failed, got.status, name)
		require.Contains(t, got.stderr, "it is not a file of lethe hold export, or it was changed", name)
		_, err := exportedHolds(path)
		require.ErrorIs(t, err, holdfile.ErrNotExported, name)
	}
	lifted := holdfile.New([]operator.Hold{{Room: "!a:x", Reason: "r", ReleasedAt: 1}})
	require.Empty(t, lifted.Standing())
}

// A password is never repeated, in whatever form it comes.
func TestDatabaseThatIsNoURLIsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, database := range []string{
		"host=127.0.0.1 user=lethe password=hunter2 dbname=lethe", "PASSWORD=hunter2", "mysql://lethe:hunter2@localhost/lethe",
		"POSTGRES://lethe:hunter2@localhost/lethe", "postgres://lethe:hunter2@localhost:x/lethe", "postgres://lethe:hunter2%zz@localhost/lethe",
	} {
		for _, args := range [][]string{
			{"job", "list", "--database", database}, {"--database", database, "job", "list"}, {"job", "list", "--database=" + database},
		} {
			got := lethe(t, nil, nil, args...)
			require.NotZero(t, got.status, args)
			require.Contains(t, got.stderr, "URL", args)
			require.NotContains(t, got.stdout+got.stderr, "hunter2", args)
		}
	}
}

func TestTimes(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_800_000_000_000)
	for text, want := range map[string]int64{
		"1700000000000": 1_700_000_000_000, "1700000000": 1_700_000_000, // the plan warns of seconds
		"1970-01-01": 0, "0": 0, "2026-01-31": 1_769_817_600_000, "2026-01-31T01:00:00+01:00": 1_769_817_600_000, "2026-01-31 00:00": 1_769_817_600_000,
		"30s": 1_799_999_970_000, "1d": 1_799_913_600_000, "2w": 1_798_790_400_000,
	} {
		got, err := command.ParseTime(text, now, -1)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	later, err := command.ParseTime("12h", now, 1)
	require.NoError(t, err)
	require.Equal(t, now.UnixMilli()+12*3_600_000, later)
	for _, text := range []string{"", "-1d", "1y", "1.5h", "now", "31.01.2026", "2026-13-01", "99999999999999999999", "1969-12-31", "999999w"} {
		_, err := command.ParseTime(text, now, -1)
		require.Error(t, err, text)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for shell, want := range map[string]string{"bash": "__start_lethe", "zsh": "#compdef lethe", "fish": "complete -c lethe", "powershell": "Register-ArgumentCompleter"} {
		got := lethe(t, nil, nil, "completion", shell)
		require.Equal(t, command.Done, got.status, got.stderr)
		require.Contains(t, got.stdout, want)
	}
	for args, want := range map[string][]string{
		"job list --state ":       states,
		"fleet set ":              kinds,
		"job list --output ":      formats,
		"job priority A --queue ": queues,
	} {
		words := strings.Split(args, " ")
		got := lethe(t, nil, nil, append([]string{"__complete"}, words...)...)
		lines := strings.Split(got.stdout, "\n")
		require.Equal(t, want, lines[:len(want)], args)
	}
	require.NotEmpty(t, slices.Sorted(maps.Keys(everyCommand())))
}

// A watch that goes on for long forgets the jobs that have ended first.
func TestWatchForgets(t *testing.T) {
	t.Parallel()
	w := &watching{jobs: map[string]operator.Job{}, heard: map[string]time.Time{}}
	for i := range maxWatched {
		w.see(operator.Job{ID: fmt.Sprint(i), State: "running"})
	}
	w.see(operator.Job{ID: "later", State: "queued"})
	require.NotContains(t, w.order, "later", "all places are taken")
	w.see(operator.Job{ID: "7", State: "complete"})
	w.see(operator.Job{ID: "later", State: "queued"})
	require.Contains(t, w.order, "later")
	require.NotContains(t, w.order, "7")
	require.Len(t, w.jobs, maxWatched)
	require.Len(t, w.heard, maxWatched)
}
