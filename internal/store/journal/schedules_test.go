package journal_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// start is the tick number 0 of the tests, which are an hour apart.
var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// tickOf is a tick of the job "daily".
func tickOf(number int) journal.Tick {
	at := start.Add(time.Duration(number) * time.Hour)
	return journal.Tick{
		Job: "daily", At: at, Next: at.Add(time.Hour),
		Sweep: journal.Job{
			ID: jobs.DerivedID("daily", at.String()), Kind: jobs.RetentionSweep, Requester: "retention",
			Parameters: []byte(fmt.Sprintf(`{"job": "daily", "tick": %q}`, at.Format(time.RFC3339))),
		},
	}
}

func insisting(number int) journal.Tick {
	tick := tickOf(number)
	tick.Force = true
	return tick
}

// take decides about a tick, and returns what became of it.
func take(l *storetest.Lab, tick journal.Tick) journal.TakenTick {
	l.T.Helper()
	taken, err := l.Schedules.TakeTick(l.Ctx, tick)
	require.NoError(l.T, err)
	return taken
}

// sweeps are the ticks that have one, in their order.
func sweeps(l *storetest.Lab) []string {
	l.T.Helper()
	return storetest.All[string](l, `
		SELECT parameters->>'tick' FROM lethe.jobs WHERE kind = 'retention_sweep' AND room_id = '' ORDER BY 1`)
}

func endSweeps(l *storetest.Lab) {
	l.T.Helper()
	l.Exec(`UPDATE lethe.jobs SET state = 'complete', heartbeat_at = NULL, ended_at = now() WHERE ended_at IS NULL`)
}

// schedule is the row of the job "daily".
func schedule(l *storetest.Lab) string {
	l.T.Helper()
	return storetest.One[string](l, `
		SELECT concat_ws(' ', to_char(last_tick AT TIME ZONE 'UTC', 'DD HH24'), outcome, sweep_id IS NOT NULL, skipped,
		                 to_char(next_tick AT TIME ZONE 'UTC', 'DD HH24'))
		FROM lethe.schedules WHERE job = 'daily'`)
}

func TestTickOfANewJobIsNoted(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	require.Equal(t, journal.TakenTick{Outcome: journal.TickNoted}, take(l, tickOf(0)))
	require.Equal(t, journal.TakenTick{Outcome: journal.TickPast}, take(l, tickOf(0)))
	require.Equal(t, "01 00 noted f 0 01 01", schedule(l))
	require.Empty(t, sweeps(l))

	// Who insists runs it, once.
	taken := take(l, insisting(0))
	require.Equal(t, journal.TickAccepted, taken.Outcome)
	require.Equal(t, taken.Sweep.ID, take(l, insisting(0)).Sweep.ID)
	require.Equal(t, "01 00 accepted t 0 01 01", schedule(l))
	require.Equal(t, []string{"2026-03-01T00:00:00Z"}, sweeps(l))
}

func TestTickIsTakenOnce(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	take(l, tickOf(0))
	tick := tickOf(1)
	taken := take(l, tick)
	require.Equal(t, journal.TickAccepted, taken.Outcome)
	require.False(t, taken.SetBack)
	want := tick.Sweep
	want.State, want.Generation, want.TaskMissing = journal.Queued, 1, true
	require.JSONEq(t, string(want.Parameters), string(taken.Sweep.Parameters))
	want.Parameters = taken.Sweep.Parameters
	require.Equal(t, want, taken.Sweep)
	require.Equal(t, want, l.Job(tick.Sweep.ID))
	missing, err := l.Journal.RequeueMissing(l.Ctx, time.Hour, 10)
	require.NoError(t, err)
	require.Equal(t, []journal.Job{want}, missing, "it is enqueued at once if its taker dies, under the generation that it has")

	for _, tick := range []journal.Tick{tickOf(0), tickOf(1), insisting(0), insisting(1)} {
		taken := take(l, tick)
		require.Equal(t, journal.TickPast, taken.Outcome)
		require.Equal(t, want.ID, taken.Sweep.ID)
	}
	endSweeps(l)
	require.Equal(t, journal.Complete, take(l, insisting(1)).Sweep.State)
	require.Equal(t, "01 01 accepted t 0 01 02", schedule(l))

	last := tickOf(7)
	last.Next = time.Time{}
	require.Equal(t, journal.TickAccepted, take(l, last).Outcome, "after ticks without a running scheduler")
	require.Equal(t, "01 07 accepted t 0", schedule(l), "there is no further one")
	require.Equal(t, []string{"2026-03-01T01:00:00Z", "2026-03-01T07:00:00Z"}, sweeps(l))
}

func TestTickIsSkippedWhileTheSweepBeforeHasNotEnded(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	first := take(l, insisting(0)).Sweep
	for i := 1; i <= 3; i++ {
		if i == 2 {
			l.Exec(`UPDATE lethe.jobs SET state = 'running', heartbeat_at = now()`)
		}
		taken := take(l, tickOf(i))
		require.Equal(t, journal.TickSkipped, taken.Outcome)
		require.Equal(t, first.ID, taken.Sweep.ID)
		require.Equal(t, journal.TickPast, take(l, tickOf(i)).Outcome)
	}
	require.Equal(t, "01 03 skipped t 3 01 04", schedule(l))

	// Who insists is told the same, as long as it is so.
	require.Equal(t, journal.TickSkipped, take(l, insisting(3)).Outcome)
	require.Equal(t, "01 03 skipped t 3 01 04", schedule(l), "which counts once")
	endSweeps(l)
	require.Equal(t, journal.TickPast, take(l, tickOf(3)).Outcome, "what was skipped stays so")
	require.Equal(t, journal.TickAccepted, take(l, insisting(3)).Outcome)
	endSweeps(l)
	require.Equal(t, journal.TickAccepted, take(l, tickOf(4)).Outcome)
	require.Equal(t, "01 04 accepted t 3 01 05", schedule(l))

	// It is for the sweeps of the same job, and for those alone.
	other := tickOf(5)
	other.Job, other.Sweep.ID = "hourly", jobs.NewID()
	other.Force = true
	require.Equal(t, journal.TickAccepted, take(l, other).Outcome)
	l.Exec(`DELETE FROM lethe.schedules`)
	require.Equal(t, journal.TickSkipped, take(l, insisting(5)).Outcome, "whatever became of the row")
}

func TestTickIsDecidedByOne(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	for number := range 4 {
		var mu sync.Mutex
		outcomes := map[string]int{}
		var group errgroup.Group
		for range 8 {
			group.Go(func() error {
				taken, err := l.Schedules.TakeTick(l.Ctx, tickOf(number))
				mu.Lock()
				defer mu.Unlock()
				outcomes[taken.Outcome]++
				return err
			})
		}
		require.NoError(t, group.Wait())
		want := journal.TickAccepted
		if number == 0 {
			want = journal.TickNoted
		}
		require.Equal(t, map[string]int{want: 1, journal.TickPast: 7}, outcomes)
		endSweeps(l)
	}
	require.Len(t, sweeps(l), 3)
}

// TestTickHasOneSweepWhateverTheRowSays deletes the row, sets it back and sets it
// ahead: the existing sweep decides.
func TestTickHasOneSweepWhateverTheRowSays(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	take(l, insisting(3))
	endSweeps(l)
	ahead := insisting(3)
	ahead.FutureTick = time.Date(294000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, change := range []string{
		`DELETE FROM lethe.schedules`,
		`UPDATE lethe.schedules SET last_tick = '4000-01-01 BC', outcome = 'skipped'`,
		`UPDATE lethe.schedules SET last_tick = '294000-01-01 UTC', next_tick = '294000-01-02'`,
	} {
		l.Exec(change)
		for range 2 {
			taken := take(l, ahead)
			require.Equal(t, journal.TickPast, taken.Outcome, change)
			require.Equal(t, tickOf(3).Sweep.ID, taken.Sweep.ID)
		}
		require.Equal(t, "01 03 accepted t 0 01 04", schedule(l))
	}
	require.Len(t, sweeps(l), 1)
}

func TestRowIsSetBackIfItIsAsItWasRead(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	take(l, insisting(0))
	endSweeps(l)
	future := start.AddDate(70, 0, 0)
	disbelieving := func(number int, read time.Time) journal.TakenTick {
		t.Helper()
		l.Exec(`UPDATE lethe.schedules SET last_tick = $1`, future)
		tick := tickOf(number)
		tick.FutureTick = read
		return take(l, tick)
	}
	taken := disbelieving(0, future)
	require.Equal(t, journal.TickPast, taken.Outcome, "it has its sweep")
	require.True(t, taken.SetBack)
	require.Equal(t, "01 00 accepted t 0 01 01", schedule(l))

	taken = disbelieving(1, future)
	require.Equal(t, journal.TickAccepted, taken.Outcome)
	require.True(t, taken.SetBack)
	require.Equal(t, "01 01 accepted t 0 01 02", schedule(l))
	endSweeps(l)

	for _, read := range []time.Time{{}, future.Add(-time.Hour), future.Add(time.Hour)} {
		taken = disbelieving(2, read)
		require.Equal(t, journal.TickPast, taken.Outcome, "another replica has moved it meanwhile")
		require.False(t, taken.SetBack)
		require.Equal(t, tickOf(1).Sweep.ID, taken.Sweep.ID, "the last that there is")
	}
	require.Len(t, sweeps(l), 2)
}

// TestTickDoesNotWaitLong stops a replica while it holds a job's row.
func TestTickDoesNotWaitLong(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	take(l, tickOf(0))
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `SELECT FROM lethe.schedules FOR UPDATE`)
	require.NoError(t, err)
	started := time.Now()
	_, err = l.Schedules.TakeTick(l.Ctx, tickOf(1))
	require.ErrorContains(t, err, "lock timeout")
	require.True(t, postgres.Transient(err))
	require.Less(t, time.Since(started), 20*time.Second)
	require.NoError(t, tx.Rollback(l.Ctx))
	require.Equal(t, journal.TickAccepted, take(l, tickOf(1)).Outcome)
}

func TestTickThatCannotBeTakenLeavesNothing(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	take(l, tickOf(0))
	for _, change := range []func(*journal.Tick){
		func(tick *journal.Tick) { tick.Sweep.ID = "no id" },
		func(tick *journal.Tick) { tick.Sweep.Kind = "sweep" },
		func(tick *journal.Tick) { tick.Sweep.Parameters = []byte("{") },
		func(tick *journal.Tick) { tick.Job = "\x00" },
	} {
		tick := tickOf(1)
		change(&tick)
		l.RequireUnchanged(func() {
			_, err := l.Schedules.TakeTick(l.Ctx, tick)
			require.ErrorContains(t, err, "take a job's tick")
		})
	}
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	take(l, tickOf(0))
	read := func() map[string]journal.Schedule {
		t.Helper()
		schedules, err := l.Schedules.Read(l.Ctx, []string{"daily", "none", "\u2028"})
		require.NoError(t, err)
		for job, row := range schedules {
			row.LastTick, row.NextTick = row.LastTick.UTC(), row.NextTick.UTC()
			schedules[job] = row
		}
		return schedules
	}
	require.Equal(t, map[string]journal.Schedule{"daily": {Job: "daily", LastTick: start, NextTick: start.Add(time.Hour)}}, read())
	require.NoError(t, l.Schedules.SetNextTick(l.Ctx, "daily", start, time.Time{}))
	require.Equal(t, map[string]journal.Schedule{"daily": {Job: "daily", LastTick: start}}, read())
	require.NoError(t, l.Schedules.SetNextTick(l.Ctx, "daily", start.Add(time.Second), start.Add(time.Hour)))
	require.NoError(t, l.Schedules.SetNextTick(l.Ctx, "none", start, start.Add(time.Hour)))
	require.Equal(t, map[string]journal.Schedule{"daily": {Job: "daily", LastTick: start}}, read())
}
