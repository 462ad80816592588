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
		"0/s, 11574d1h left":        {State: "running", ETA: new(1e300)},
	} {
		require.Equal(t, want, doing(job, now))
	}
	require.Equal(t, "7 events", of(operator.Job{Done: 7}))
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567", 12345: "12,345"} {
		require.Equal(t, want, Count(n))
	}
	require.Equal(t, "2h5m", Duration(125*time.Minute))
	require.Equal(t, "0s", Duration(-time.Hour))
}
