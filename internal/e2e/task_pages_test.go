package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

// taskPages is the folder of the pages for an operator with one task.
const taskPages = "../../docs/tasks"

// recordPages makes TestTaskPages write what the commands print into the pages. Shorten
// that with … afterwards.
var recordPages = os.Getenv("LETHE_RECORD_PAGES") != ""

// The rooms of the server of the pages.
const (
	pageServer    = "example.org"
	largeRoom     = "!townsquare:" + pageServer
	oldRoom       = "!archive:" + pageServer
	heldRoom      = "!board:" + pageServer
	mistakenRoom  = "!kitchen:" + pageServer
	abandonedRoom = "!attic:" + pageServer
)

// populatePages makes an admin and the rooms of the pages. Their events arrived one after
// the other in the last two years, so that the first two rooms have only old ones. The
// users of the first have left it.
func populatePages(ctx context.Context, url string) error {
	if err := migrate.UpEmbedded(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := roomgen.Account(ctx, conn, "@admin:"+pageServer, token, true); err != nil {
		return err
	}
	for i, room := range []struct {
		id     string
		events int
	}{{abandonedRoom, 100}, {oldRoom, 400}, {largeRoom, 3000}, {heldRoom, 500}, {mistakenRoom, 1000}} {
		if _, err := roomgen.Generate(ctx, conn, roomgen.Room{
			ID: room.id, Server: pageServer, Seed: uint64(i + 1), Events: room.events, RemoteMembers: -1,
		}); err != nil {
			return err
		}
	}
	for _, statement := range []string{
		`UPDATE events SET received_ts = (extract(epoch FROM now()) - (newest - stream_ordering) * 2 * 365 * 86400.0 / newest)::bigint * 1000
		 FROM (SELECT max(stream_ordering) AS newest FROM events) n`,
		`UPDATE local_current_membership SET membership = 'leave' WHERE room_id = '` + abandonedRoom + `'`,
		`UPDATE current_state_events SET membership = 'leave' WHERE room_id = '` + abandonedRoom + `' AND type = 'm.room.member'`,
		`INSERT INTO blocked_rooms (room_id, user_id) VALUES ('` + mistakenRoom + `', '@admin:` + pageServer + `')`,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// A block is a fenced block of a page.
type block struct {
	heading, text string // the heading above it
	exit          string // the status with which the commands end
	first, last   int    // the lines of its contents
}

// A taskPage is a page, as the test reads it.
type taskPage struct {
	path     string
	lines    []string
	settings []string
	steps    []step
}

// A step is a block of commands, and what the page says that they print.
type step struct {
	commands block
	prints   *block
}

// readTaskPage reads a page. It has blocks of three kinds: "sh" with commands, with an exit
// status such as exit=3 if that is not 0; "text" with what the commands above print; and
// "ini" with settings.
func readTaskPage(t *testing.T, path string) *taskPage {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	p := &taskPage{path: path, lines: strings.Split(string(text), "\n")}
	heading := ""
	for i := 0; i < len(p.lines); i++ {
		if title, found := strings.CutPrefix(p.lines[i], "## "); found {
			heading = title
		}
		kind, isFence := strings.CutPrefix(p.lines[i], "```")
		if !isFence {
			// What no test runs has another form, and is not for lethe or curl.
			require.NotRegexp(t, `^    .*\b(lethe |curl )`, p.lines[i], "%s:%d: put the command into a fenced block", path, i+1)
			continue
		}
		length := slices.Index(p.lines[i+1:], "```")
		require.GreaterOrEqual(t, length, 0, "%s:%d: the block has no end", path, i+1)
		b := block{heading: heading, text: strings.Join(p.lines[i+1:i+1+length], "\n"), first: i + 1, last: i + 1 + length, exit: "0"}
		i = b.last
		switch {
		case kind == "text":
			require.NotEmpty(t, p.steps, "%s:%d: no commands print this", path, i)
			last := &p.steps[len(p.steps)-1]
			require.Nil(t, last.prints, "%s:%d", path, i)
			last.prints = &b
		case kind == "ini":
			p.settings = append(p.settings, strings.Split(b.text, "\n")...)
		default:
			words := strings.Fields(kind)
			require.NotEmpty(t, words, "%s:%d: the block has no language", path, i)
			require.Equal(t, "sh", words[0], "%s:%d", path, i)
			for _, word := range words[1:] {
				status, found := strings.CutPrefix(word, "exit=")
				require.True(t, found, "%s:%d: %s", path, i, word)
				b.exit = status
			}
			p.steps = append(p.steps, step{commands: b})
		}
	}
	require.NotEmpty(t, p.steps, path)
	return p
}

// A shell runs the commands of a page, one block after the other.
type shell struct {
	t      *testing.T
	input  io.Writer
	output *bufio.Scanner
	folder string
	values map[string]string // of the variables that a page leaves open
}

// newShell starts bash with the programs of this tree in its PATH.
func newShell(t *testing.T, values map[string]string) *shell {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	s := &shell{t: t, folder: t.TempDir(), values: values}
	command := exec.CommandContext(ctx, "bash", "--norc", "--noprofile")
	command.Dir = s.folder
	command.Env = []string{"PATH=" + devstacktest.Binaries(t) + ":" + os.Getenv("PATH"), "HOME=" + s.folder, "TZ=UTC", "LC_ALL=C.UTF-8"}
	input, err := command.StdinPipe()
	require.NoError(t, err)
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	s.input, s.output = input, bufio.NewScanner(output)
	t.Cleanup(func() {
		_ = input.Close()
		_ = command.Wait()
	})
	_, err = fmt.Fprintln(s.input, `trap 'failed=$?' ERR`)
	require.NoError(t, err)
	return s
}

// assignment matches a line that sets a variable which the reader fills in.
var assignment = regexp.MustCompile(`(?m)^(export )?([A-Z_]+)=('?[^$\n]*'?)$`)

// id matches the id of a job.
var id = regexp.MustCompile(`\b[A-Za-z]{16}\b`)

// run runs the commands, and returns what a terminal would show and the highest status.
func (s *shell) run(b block) (shown, status string) {
	s.t.Helper()
	commands := assignment.ReplaceAllStringFunc(b.text, func(line string) string {
		found := assignment.FindStringSubmatch(line)
		value, declared := s.values[found[2]]
		require.True(s.t, declared, "%s is not a variable that the reader fills in", found[2])
		require.NotEmpty(s.t, value, "%s: nothing has printed it", found[2])
		return found[1] + found[2] + "='" + value + "'"
	})
	require.NotContains(s.t, commands, "…", "the command cannot be run as it is")
	file := filepath.Join(s.folder, "shown")
	_, err := fmt.Fprintf(s.input, "failed=0\n{\n%s\n} >'%s' 2>&1 </dev/null\necho \"$failed\"\n", commands, file)
	require.NoError(s.t, err)
	require.True(s.t, s.output.Scan(), "bash has ended")
	text, err := os.ReadFile(file)
	require.NoError(s.t, err)
	host, err := os.Hostname()
	require.NoError(s.t, err)
	text = bytes.ReplaceAll(text, []byte(host+":"), []byte("host:"))
	if ids := id.FindAllString(string(text), -1); len(ids) > 0 {
		s.values["ID"] = ids[0]
	}
	return string(text), s.output.Text()
}

// variations replace what differs between two runs of the same commands.
var variations = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`![A-Za-z0-9]+:[a-z.]+`), "ROOM"},
	{id, "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?Z?`), "TIME"},
	{regexp.MustCompile(`~?\b\d[\d,.]*( ?([kMG]i?B|B|bytes)\b)?`), "N"},
	{regexp.MustCompile(`N(ms|µs|s|m|h|d)\b`), "N"},
	{regexp.MustCompile(`N(N)+`), "N"},
	{regexp.MustCompile(`[ \t]+`), " "},
	{regexp.MustCompile(`(?m)^ | $`), ""},
}

// steady returns the text without what differs between two runs.
func steady(text string) string {
	for _, s := range variations {
		text = s.pattern.ReplaceAllString(text, s.by)
	}
	return strings.TrimSpace(text)
}

// printed returns the pattern of a text of a page. In it … stands for any text of a line,
// and a line with only … for any lines.
func printed(text string) *regexp.Regexp {
	pattern := `\A`
	for line := range strings.SplitSeq(steady(text), "\n") {
		if line == "…" {
			pattern += `(?:[^\n]*\n)*?`
			continue
		}
		parts := strings.Split(line, "…")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		pattern += strings.Join(parts, `[^\n]*`) + `\n`
	}
	return regexp.MustCompile(pattern + `\z`)
}

// follow does what a page says, and holds what the commands print against it. before has
// what must happen before the blocks below a heading.
func (p *taskPage) follow(t *testing.T, values map[string]string, before map[string]func()) {
	t.Helper()
	s := newShell(t, values)
	for i := range p.steps {
		step := &p.steps[i]
		if happen := before[step.commands.heading]; happen != nil {
			happen()
			delete(before, step.commands.heading)
		}
		place := fmt.Sprintf("%s:%d", p.path, step.commands.first)
		shown, status := s.run(step.commands)
		require.Equal(t, step.commands.exit, status, "%s: %s\n%s", place, step.commands.text, shown)
		switch {
		case step.prints == nil:
			require.Empty(t, shown, "%s prints this, and the page does not say so", place)
		case !printed(step.prints.text).MatchString(steady(shown)+"\n") && recordPages:
			step.prints.text = regexp.MustCompile(`(?m) +$`).ReplaceAllString(strings.TrimSuffix(shown, "\n"), "")
		default:
			require.Regexp(t, printed(step.prints.text), steady(shown)+"\n", "%s prints\n%s", place, shown)
		}
	}
	require.Empty(t, before, "the page has no such heading with commands")
	if recordPages {
		p.record(t)
	}
}

// record writes the page with what the commands have printed.
func (p *taskPage) record(t *testing.T) {
	t.Helper()
	lines := slices.Clone(p.lines)
	for _, step := range slices.Backward(p.steps) {
		if step.prints != nil {
			lines = slices.Replace(lines, step.prints.first, step.prints.last, strings.Split(step.prints.text, "\n")...)
		}
	}
	require.NoError(t, os.WriteFile(p.path, []byte(strings.Join(lines, "\n")), 0o644))
}

// TestTaskPages does what the pages for one task each say, in one fleet whose settings
// are those of the pages, and compares what the commands print with the pages.
func TestTaskPages(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not there, which the commands of the pages need", program)
		}
	}
	pages := map[string]*taskPage{}
	files, err := filepath.Glob(filepath.Join(taskPages, "*.md"))
	require.NoError(t, err)
	f := newFleetWith(t, devstacktest.Database(t, "pages", populatePages), devstacktest.Redis(t))
	f.env = append(f.env, "LETHE_SERVER_NAME="+pageServer)
	for _, file := range files {
		page := readTaskPage(t, file)
		pages[strings.TrimSuffix(filepath.Base(file), ".md")] = page
		for _, setting := range page.settings {
			name, value, found := strings.Cut(setting, "=")
			require.True(t, found, "%s: %s", file, setting)
			f.env = append(f.env, name+"="+strings.Trim(value, "'"))
		}
	}
	f.api = f.start("api")
	// No tick comes between the commands.
	f.start("scheduler", "LETHE_RETENTION_ENABLED=false", "LETHE_RETENTION_ABANDONED_ENABLED=false")
	f.start("worker", "LETHE_WORKER_BATCH_EVENTS=100", "LETHE_RETENTION_ROWS_PER_SECOND=0")

	f.eventually(30*time.Second, func() bool {
		_, fleet := f.ask("GET", "/_lethe/v1/fleet", nil)
		workers, _ := fleet["workers"].([]any)
		return len(workers) == 1
	}, "the worker is not known")
	url := "http://" + f.api.address
	follow := func(name, room string, before map[string]func()) {
		require.Contains(t, pages, name)
		pages[name].follow(t, map[string]string{"LETHE_API_URL": url, "LETHE_TOKEN": f.token, "ROOM": room, "ID": ""}, before)
		delete(pages, name)
	}
	becomes := func(room, state string) {
		f.eventually(30*time.Second, func() bool {
			return query[bool](f, `SELECT coalesce(bool_or(state = $2), false) FROM lethe.jobs WHERE room_id = $1`, room, state)
		}, "no job of %s is %s", room, state)
	}
	begun := func(room string) {
		f.eventually(30*time.Second, func() bool {
			return query[bool](f, `SELECT coalesce(bool_or((checkpoint->>'batches')::int > 0), false) FROM lethe.jobs WHERE room_id = $1`, room)
		}, "the purge of %s has not begun", room)
	}
	purge := map[string]any{"purge_up_to_ts": time.Now().UnixMilli(), "delete_local_events": true}

	follow("purge-a-big-room", largeRoom, map[string]func(){
		"2. Begin":                    func() { f.slow(largeRoom) },
		"3. Pause it":                 func() { begun(largeRoom) },
		"4. Let it go on, or stop it": func() { becomes(largeRoom, "paused"); f.hurry() },
	})
	follow("legal-hold", heldRoom, map[string]func(){
		// So that the hold stops a job.
		"1. Hold it": func() {
			f.slow(heldRoom)
			f.purge(heldRoom, purge)
			begun(heldRoom)
		},
		"2. Has something begun?": func() {
			becomes(heldRoom, "held")
			f.hurry()
		},
	})
	follow("mistakes", mistakenRoom, map[string]func(){
		"1. Stop everything": func() {
			f.slow(mistakenRoom)
			f.purge(mistakenRoom, purge)
			begun(mistakenRoom)
		},
		"2. Find the job": func() {
			becomes(mistakenRoom, "paused")
			f.hurry()
		},
	})
	follow("abandoned-rooms", abandonedRoom, map[string]func(){
		"4. A day later": func() {
			_, err := f.sql.Exec(t.Context(), `UPDATE lethe.abandoned_rooms SET seen_at = seen_at - interval '1 day'`)
			require.NoError(t, err)
		},
	})
	follow("retention-of-a-year", oldRoom, map[string]func(){
		"6. Watch its purges": func() { becomes(oldRoom, "complete") },
	})
	require.Empty(t, pages, "a page that no test follows")
}

// slow makes each batch of the room wait before it commits.
func (f *fleet) slow(room string) {
	f.t.Helper()
	_, err := f.sql.Exec(f.t.Context(), `
		CREATE FUNCTION lethe.slow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_sleep(0.3);
			RETURN NEW;
		END $$;
		CREATE TRIGGER slow AFTER UPDATE OF checkpoint ON lethe.jobs FOR EACH ROW
		WHEN (NEW.checkpoint IS DISTINCT FROM OLD.checkpoint AND NEW.room_id = `+"'"+room+"'"+`) EXECUTE FUNCTION lethe.slow()`)
	require.NoError(f.t, err)
}

// hurry undoes slow.
func (f *fleet) hurry() {
	f.t.Helper()
	_, err := f.sql.Exec(f.t.Context(), `DROP FUNCTION lethe.slow() CASCADE`)
	require.NoError(f.t, err)
}
