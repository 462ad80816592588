package store_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/store"
)

// start is the tick number 0 of the tests, which are an hour apart.
var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// tickOf is a tick of the job "daily".
func tickOf(number int) store.Tick {
	at := start.Add(time.Duration(number) * time.Hour)
	return store.Tick{
		Job: "daily", At: at, Next: at.Add(time.Hour),
		Sweep: store.Job{
			ID: jobs.DerivedID("daily", at.String()), Kind: string(jobs.RetentionSweep), Requester: "retention",
			Parameters: []byte(fmt.Sprintf(`{"job": "daily", "tick": %q}`, at.Format(time.RFC3339))),
		},
	}
}

func insisting(number int) store.Tick {
	tick := tickOf(number)
	tick.Insist = true
	return tick
}

// take decides about a tick, and returns what became of it.
func (l *lab) take(tick store.Tick) store.TakenTick {
	l.t.Helper()
	taken, err := l.store.TakeTick(l.ctx, tick)
	require.NoError(l.t, err)
	return taken
}

// sweeps are the ticks that have one, in their order.
func (l *lab) sweeps() []string {
	l.t.Helper()
	return all[string](l, `
		SELECT parameters->>'tick' FROM lethe.jobs WHERE kind = 'retention_sweep' AND room_id = '' ORDER BY 1`)
}

func (l *lab) endSweeps() {
	l.t.Helper()
	l.exec(`UPDATE lethe.jobs SET state = 'complete', heartbeat_at = NULL, ended_at = now() WHERE ended_at IS NULL`)
}

// schedule is the row of the job "daily".
func (l *lab) schedule() string {
	l.t.Helper()
	return one[string](l, `
		SELECT concat_ws(' ', to_char(last_tick AT TIME ZONE 'UTC', 'DD HH24'), outcome, sweep_id IS NOT NULL, skipped,
		                 to_char(next_tick AT TIME ZONE 'UTC', 'DD HH24'))
		FROM lethe.schedules WHERE job = 'daily'`)
}

func TestTickOfANewJobIsNoted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	require.Equal(t, store.TakenTick{Outcome: store.TickNoted}, l.take(tickOf(0)))
	require.Equal(t, store.TakenTick{Outcome: store.TickPast}, l.take(tickOf(0)))
	require.Equal(t, "01 00 noted f 0 01 01", l.schedule())
	require.Empty(t, l.sweeps())

	// Who insists runs it, once.
	taken := l.take(insisting(0))
	require.Equal(t, store.TickAccepted, taken.Outcome)
	require.Equal(t, taken.Sweep.ID, l.take(insisting(0)).Sweep.ID)
	require.Equal(t, "01 00 accepted t 0 01 01", l.schedule())
	require.Equal(t, []string{"2026-03-01T00:00:00Z"}, l.sweeps())
}

func TestTickIsTakenOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.take(tickOf(0))
	tick := tickOf(1)
	taken := l.take(tick)
	require.Equal(t, store.TickAccepted, taken.Outcome)
	require.False(t, taken.SetBack)
	want := tick.Sweep
	want.State, want.Generation, want.TaskMissing = store.JobQueued, 1, true
	require.JSONEq(t, string(want.Parameters), string(taken.Sweep.Parameters))
	want.Parameters = taken.Sweep.Parameters
	require.Equal(t, want, taken.Sweep)
	require.Equal(t, want, l.job(tick.Sweep.ID))
	missing, err := l.store.RequeueMissing(l.ctx, time.Hour, 10)
	require.NoError(t, err)
	require.Equal(t, []store.Job{want}, missing, "it is enqueued at once if its taker dies, under the generation that it has")

	for _, tick := range []store.Tick{tickOf(0), tickOf(1), insisting(0), insisting(1)} {
		taken := l.take(tick)
		require.Equal(t, store.TickPast, taken.Outcome)
		require.Equal(t, want.ID, taken.Sweep.ID)
	}
	l.endSweeps()
	require.Equal(t, store.JobComplete, l.take(insisting(1)).Sweep.State)
	require.Equal(t, "01 01 accepted t 0 01 02", l.schedule())

	last := tickOf(7)
	last.Next = time.Time{}
	require.Equal(t, store.TickAccepted, l.take(last).Outcome, "after ticks that nobody was there for")
	require.Equal(t, "01 07 accepted t 0", l.schedule(), "there is no further one")
	require.Equal(t, []string{"2026-03-01T01:00:00Z", "2026-03-01T07:00:00Z"}, l.sweeps())
}

func TestTickIsSkippedWhileTheSweepBeforeHasNotEnded(t *testing.T) {
	t.Parallel()
	l := setup(t)
	first := l.take(insisting(0)).Sweep
	for i := 1; i <= 3; i++ {
		if i == 2 {
			l.exec(`UPDATE lethe.jobs SET state = 'running', heartbeat_at = now()`)
		}
		taken := l.take(tickOf(i))
		require.Equal(t, store.TickSkipped, taken.Outcome)
		require.Equal(t, first.ID, taken.Sweep.ID)
		require.Equal(t, store.TickPast, l.take(tickOf(i)).Outcome)
	}
	require.Equal(t, "01 03 skipped t 3 01 04", l.schedule())

	// Who insists is told the same, as long as it is so.
	require.Equal(t, store.TickSkipped, l.take(insisting(3)).Outcome)
	require.Equal(t, "01 03 skipped t 3 01 04", l.schedule(), "which counts once")
	l.endSweeps()
	require.Equal(t, store.TickPast, l.take(tickOf(3)).Outcome, "what was skipped stays so")
	require.Equal(t, store.TickAccepted, l.take(insisting(3)).Outcome)
	l.endSweeps()
	require.Equal(t, store.TickAccepted, l.take(tickOf(4)).Outcome)
	require.Equal(t, "01 04 accepted t 3 01 05", l.schedule())

	// It is for the sweeps of the same job, and for those alone.
	other := tickOf(5)
	other.Job, other.Sweep.ID = "hourly", jobs.NewID()
	other.Insist = true
	require.Equal(t, store.TickAccepted, l.take(other).Outcome)
	l.exec(`DELETE FROM lethe.schedules`)
	require.Equal(t, store.TickSkipped, l.take(insisting(5)).Outcome, "whatever became of the row")
}

func TestTickIsDecidedByOne(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for number := range 4 {
		var mu sync.Mutex
		outcomes := map[string]int{}
		var group errgroup.Group
		for range 8 {
			group.Go(func() error {
				taken, err := l.store.TakeTick(l.ctx, tickOf(number))
				mu.Lock()
				defer mu.Unlock()
				outcomes[taken.Outcome]++
				return err
			})
		}
		require.NoError(t, group.Wait())
		want := store.TickAccepted
		if number == 0 {
			want = store.TickNoted
		}
		require.Equal(t, map[string]int{want: 1, store.TickPast: 7}, outcomes)
		l.endSweeps()
	}
	require.Len(t, l.sweeps(), 3)
}

// TestTickHasOneSweepWhateverTheRowSays deletes the row, sets it back and sets it
// ahead: the sweep that is there decides.
func TestTickHasOneSweepWhateverTheRowSays(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.take(insisting(3))
	l.endSweeps()
	ahead := insisting(3)
	ahead.Disbelieved = time.Date(294000, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, change := range []string{
		`DELETE FROM lethe.schedules`,
		`UPDATE lethe.schedules SET last_tick = '4000-01-01 BC', outcome = 'skipped'`,
		`UPDATE lethe.schedules SET last_tick = '294000-01-01 UTC', next_tick = '294000-01-02'`,
	} {
		l.exec(change)
		for range 2 {
			taken := l.take(ahead)
			require.Equal(t, store.TickPast, taken.Outcome, change)
			require.Equal(t, tickOf(3).Sweep.ID, taken.Sweep.ID)
		}
		require.Equal(t, "01 03 accepted t 0 01 04", l.schedule())
	}
	require.Len(t, l.sweeps(), 1)
}

func TestRowIsSetBackIfItIsAsItWasRead(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.take(insisting(0))
	l.endSweeps()
	future := start.AddDate(70, 0, 0)
	disbelieving := func(number int, read time.Time) store.TakenTick {
		t.Helper()
		l.exec(`UPDATE lethe.schedules SET last_tick = $1`, future)
		tick := tickOf(number)
		tick.Disbelieved = read
		return l.take(tick)
	}
	taken := disbelieving(0, future)
	require.Equal(t, store.TickPast, taken.Outcome, "it has its sweep")
	require.True(t, taken.SetBack)
	require.Equal(t, "01 00 accepted t 0 01 01", l.schedule())

	taken = disbelieving(1, future)
	require.Equal(t, store.TickAccepted, taken.Outcome)
	require.True(t, taken.SetBack)
	require.Equal(t, "01 01 accepted t 0 01 02", l.schedule())
	l.endSweeps()

	for _, read := range []time.Time{{}, future.Add(-time.Hour), future.Add(time.Hour)} {
		taken = disbelieving(2, read)
		require.Equal(t, store.TickPast, taken.Outcome, "somebody has moved it meanwhile")
		require.False(t, taken.SetBack)
		require.Equal(t, tickOf(1).Sweep.ID, taken.Sweep.ID, "the last that there is")
	}
	require.Len(t, l.sweeps(), 2)
}

// TestTickWaitsForNobodyForLong has a replica stop while it holds a job's row.
func TestTickWaitsForNobodyForLong(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.take(tickOf(0))
	tx, err := l.conn.Begin(l.ctx)
	require.NoError(t, err)
	_, err = tx.Exec(l.ctx, `SELECT FROM lethe.schedules FOR UPDATE`)
	require.NoError(t, err)
	started := time.Now()
	_, err = l.store.TakeTick(l.ctx, tickOf(1))
	require.ErrorContains(t, err, "lock timeout")
	require.True(t, store.Transient(err))
	require.Less(t, time.Since(started), 20*time.Second)
	require.NoError(t, tx.Rollback(l.ctx))
	require.Equal(t, store.TickAccepted, l.take(tickOf(1)).Outcome)
}

func TestTickThatCannotBeTakenLeavesNothing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.take(tickOf(0))
	for _, change := range []func(*store.Tick){
		func(tick *store.Tick) { tick.Sweep.ID = "no id" },
		func(tick *store.Tick) { tick.Sweep.Kind = "sweep" },
		func(tick *store.Tick) { tick.Sweep.Parameters = []byte("{") },
		func(tick *store.Tick) { tick.Job = "\x00" },
	} {
		tick := tickOf(1)
		change(&tick)
		l.unchanged(func() {
			_, err := l.store.TakeTick(l.ctx, tick)
			require.ErrorContains(t, err, "take a job's tick")
		})
	}
}

func TestSchedules(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.take(tickOf(0))
	read := func() map[string]store.Schedule {
		t.Helper()
		schedules, err := l.store.Schedules(l.ctx, []string{"daily", "none", "\u2028"})
		require.NoError(t, err)
		for job, row := range schedules {
			row.LastTick, row.NextTick = row.LastTick.UTC(), row.NextTick.UTC()
			schedules[job] = row
		}
		return schedules
	}
	require.Equal(t, map[string]store.Schedule{"daily": {Job: "daily", LastTick: start, NextTick: start.Add(time.Hour)}}, read())
	require.NoError(t, l.store.SetNextTick(l.ctx, "daily", start, time.Time{}))
	require.Equal(t, map[string]store.Schedule{"daily": {Job: "daily", LastTick: start}}, read())
	require.NoError(t, l.store.SetNextTick(l.ctx, "daily", start.Add(time.Second), start.Add(time.Hour)))
	require.NoError(t, l.store.SetNextTick(l.ctx, "none", start, start.Add(time.Hour)))
	require.Equal(t, map[string]store.Schedule{"daily": {Job: "daily", LastTick: start}}, read())
}
