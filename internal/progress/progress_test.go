package progress

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vbauerster/mpb/v8"

	"lethe/internal/operator"
	"lethe/internal/output"
	"lethe/internal/store/leftover"
	"lethe/internal/store/vacuum"
	"lethe/internal/sweep"
)

var running = operator.Job{
	ID: "AbCdEfGhIjKlMnOp", Kind: "purge_history", Room: "!abc:example.org", State: "running",
	Done: 9000, Total: new(int64(20000)), Rate: 340.6, ETA: new(32.4),
}

// A screen is a terminal of mpb's, which keeps its last picture.
type screen struct {
	width int

	mu      sync.Mutex
	buffer  bytes.Buffer
	picture string
}

func (s *screen) Write(p []byte) (int, error)               { return s.buffer.Write(p) }
func (s *screen) ReadFrom(r io.Reader) (int64, error)       { return s.buffer.ReadFrom(r) }
func (s *screen) IsTerminal() bool                          { return true }
func (s *screen) GetTermSize() (width, height int, _ error) { return s.width, 24, nil }
func (s *screen) Flush(int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picture = s.buffer.String()
	s.buffer.Reset()
	return nil
}

func (s *screen) shows() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.picture
}

func TestBars(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &screen{width: 140}
		bars := newBars(mpb.WithConsoleWriter(s))
		picture := func() []string {
			time.Sleep(2 * refresh) // by the clock of synctest, which jumps
			synctest.Wait()
			return strings.Split(strings.TrimRight(s.shows(), "\n"), "\n")
		}
		waiting := operator.Job{
			ID: "B", Kind: "delete_room", Room: "!a\x1b[2Jb:" + strings.Repeat("x", 90), State: "held",
			WaitsFor: "hold: case \x1b]0;42\a", WaitsSince: time.Now().Add(-3 * time.Minute).UnixMilli(),
		}
		bars.Show(running)
		bars.Show(waiting)
		rows := picture()
		require.Len(t, rows, 2)
		for _, want := range []string{"AbCdEfGhIjKlMnOp  purge_history  !abc:example.org", "[========>-----------]", "9,000/20,000 events", "340/s, 32s left"} {
			require.Contains(t, rows[0], want)
		}
		for _, want := range []string{`!a\x1b[2Jb:xxx`, "…", "[--------------------]", `  hold: case \x1b]0;42\a (for 3m0s)`} {
			require.Contains(t, rows[1], want)
		}
		require.NotContains(t, strings.Join(rows, ""), "\x1b[2J")

		// A job that has done all that it counted has not ended before it says so.
		almost := running
		almost.Done = 20000
		bars.Show(almost)
		require.Contains(t, picture()[0], "20,000/20,000 events")
		almost.State, almost.Events, almost.ETA = "complete", 18000, nil
		bars.Show(almost)
		waiting.State, waiting.Error = "failed", "the room\nis gone"
		bars.Show(waiting)
		rows = picture()
		require.Contains(t, rows[0], "[====================]")
		require.Contains(t, rows[0], "complete: deleted 18,000 events")
		require.Contains(t, rows[1], `failed: the room\nis gone`)
		bars.Close()
		bars.Close()
	})
}

func TestBarsFitNarrowTerminals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &screen{width: 60}
		bars := newBars(mpb.WithConsoleWriter(s))
		defer bars.Close()
		bars.Show(running)
		time.Sleep(2 * refresh) // by the clock of synctest, which jumps
		synctest.Wait()
		require.LessOrEqual(t, len([]rune(strings.TrimRight(s.shows(), "\n"))), 60)
		require.Contains(t, s.shows(), "AbCdEfGhIjKlMnOp")
	})
}

func TestLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		lines := NewLines(&out)
		job := running
		job.Room = "!a\nb:example.org"
		lines.Show(job)
		lines.Show(job)
		job.Done = 9500
		lines.Show(job) // too soon
		require.Equal(t, 1, strings.Count(out.String(), "\n"))
		require.Contains(t, out.String(), `AbCdEfGhIjKlMnOp purge_history !a\nb:example.org 9,000/20,000 events: 340/s, 32s left`)
		time.Sleep(linesInterval) // by the clock of synctest, which jumps
		lines.Show(job)
		require.Contains(t, out.String(), "9,500/20,000")
		job.WaitsFor = "turn: 2nd of this room"
		lines.Show(job)
		require.Contains(t, out.String(), "events: turn: 2nd of this room")
		lines.Close()
	})
}

func TestTexts(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_000_000)
	for want, job := range map[string]operator.Job{
		"scheduled: begins in 1d0h": {State: "scheduled", Due: now.Add(24 * time.Hour).UnixMilli()},
		"cancelled":                 {State: "cancelled", WaitsFor: "nothing"},
		"absorbed by X":             {State: "absorbed", AbsorbedBy: "X"},
		"queued":                    {State: "queued"},
		"complete: 3 rooms":         {Kind: "retention_sweep", State: "complete", Done: 3},
		"complete: 1 room":          {Kind: "retention_sweep", State: "complete", Done: 1},
		"complete: deleted 1 event": {Kind: "purge_history", State: "complete", Done: 1, Events: 1},
		"scheduled: begins in 1d0h, and then comes the hold: x": {
			State: "scheduled", Due: now.Add(24 * time.Hour).UnixMilli(), WaitsFor: "grace: it ends at T, and then comes the hold: x",
		},
		"0/s, 11574d1h left": {State: "running", ETA: new(1e300)},
	} {
		require.Equal(t, want, doing(job, now))
	}
	require.Equal(t, "7 events", of(operator.Job{Done: 7}))
	require.Equal(t, "1 event", of(operator.Job{Done: 1}))
	require.Equal(t, "1/20 rooms", of(operator.Job{Kind: "abandoned_sweep", Done: 1, Total: new(int64(20))}))
	require.Equal(t, "1 row of odd: w", rowsOf(leftover.Table{Table: "odd", Rows: 1, Why: "w"}))
	require.Equal(t, "1 or more rows of odd: w", rowsOf(leftover.Table{Table: "odd", Rows: 1, More: true, Why: "w"}))
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 12345: "12,345"} {
		require.Equal(t, want, output.Count(n))
	}
	require.Equal(t, "2h5m", Duration(125*time.Minute))
	require.Equal(t, "0s", Duration(-time.Hour))
}

func TestDetails(t *testing.T) {
	t.Parallel()
	details := func(job operator.Job) string {
		var out bytes.Buffer
		require.NoError(t, Details(&out, job))
		return out.String()
	}
	var users []string
	for i := range 12 {
		users = append(users, "@u"+output.Count(int64(i))+":x")
	}
	text := details(operator.Job{
		Kind: "delete_room", State: "complete", Events: 7,
		Request: &operator.JobRequest{
			Reason: "spam", Block: new(true), Purge: new(true), ForcePurge: new(false), NewRoomUser: "@a:x", RoomName: "Moved",
			PurgeDelay: 90, Plan: "1-2-3", Tolerance: 5,
		},
		Result: &operator.JobResult{KickedUsers: users, FailedToKickUsers: []string{}, LocalAliases: []string{"#a:x"}, NewRoom: new("!new:x"), Report: &leftover.Report{
			Left: []leftover.Table{{Table: "odd", Rows: 100, More: true, Why: "it failed"}}, Kept: []leftover.Table{{Table: "event_reports", Rows: 2, Why: "moderators read them"}},
			NotChecked: []string{"a", "b"},
		}},
		Log: []operator.Event{
			{Event: "scheduled", Detail: []byte(`{"due_ts":1800000000000,"plan":{"digest":"1-2-3","tolerance":5}}`)},
			{Event: "running", Detail: []byte(`{"from":"queued","worker":"host:1"}`)},
			{Event: "complete", Detail: []byte(`{"complete_below":12345678901234567,"new_words_ts":1000}`)},
			{Event: "odd", Detail: []byte(`[1]`)},
		},
	})
	for _, want := range []string{
		`reason +spam`, `block +yes`, `force purge +no`, `new room +by @a:x, called "Moved"`, `purge delay +1m30s`, `tolerance +5 events`,
		`users kicked +12: @u0:x, .*@u9:x, …`, `failed to kick +0`, `local aliases +1: #a:x`, `new room id +!new:x`,
		`left over +100 or more rows of odd: it failed`, `kept +2 rows of event_reports: moderators read them`, `not checked +a, b`, `deleted events +7`,
		`begins at 2027-01-15 08:00:00, plan 1-2-3, tolerance 5`, `was queued, by host:1`,
		`complete below depth 12345678901234567, new words 1970-01-01 00:00:01`, `odd +\[1\]`,
	} {
		require.Regexp(t, want, text)
	}
	require.NotContains(t, text, "delete local events")
	require.NotContains(t, text, "vacuum")

	text = details(operator.Job{Kind: "purge_history", State: "complete", Vacuum: &vacuum.Phase{
		State: vacuum.Running, WaitsFor: "snapshot: session 7", Walk: &vacuum.Walk{State: vacuum.Done, Seconds: 0.25},
		Tables: []vacuum.EmptiedTable{
			{Name: "events", State: vacuum.Done, Seconds: 1.5, Space: &vacuum.Space{Dead: 1000, Reusable: 2_000_000, Returnable: 0, Rewrite: 3_000_000}},
			{Name: "event_json", State: vacuum.Skipped, Reason: "few rows"},
		},
	}})
	for _, want := range []string{
		`vacuum +running`, `vacuum waits for +snapshot: session 7`, `index walk +done in 250ms`,
		`VACUUM OF +STATE +TOOK +~DEAD +~REUSABLE +~TRUNCATE +~REWRITE +WHY`,
		`events +done +1.5s +1.0 kB +2.0 MB +0 B +3.0 MB`, `event_json +skipped .*few rows`,
	} {
		require.Regexp(t, want, text)
	}

	text = details(operator.Job{
		Kind: "purge_history", Request: &operator.JobRequest{BeforeTime: new(int64(0)), BeforeDepth: new(int64(9)), DeleteLocal: new(false)},
	})
	require.Regexp(t, `before +1970-01-01 00:00:00 \(UTC\) \(below depth 9\)`, text)
	require.Regexp(t, `delete local events +no`, text)

	text = details(operator.Job{
		Kind: "retention_sweep", Done: 9, Total: new(int64(9)), Request: &operator.JobRequest{Name: "nightly"},
		Result: &operator.JobResult{
			Rooms: new(int64(9)), Enqueued: new(int64(2)), Skipped: map[string]int64{"nothing_expired": 4, "held": 3, "failed": 0},
			Failures: []sweep.Failure{{Room: "!a:x", Error: "no"}},
		},
	})
	for _, want := range []string{`gone through +9/9 rooms`, `retention job +nightly`, `enqueued +2 jobs`, `skipped +7 rooms: held 3, nothing expired 4`, `failed +!a:x: no`} {
		require.Regexp(t, want, text)
	}
	require.NotContains(t, text, "events")
}
