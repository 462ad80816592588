package journal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

func TestBatchCommitsItsCheckpointWithItsWork(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 5, 0)
	batch := l.Work(room)
	done, err := l.PurgeBatchWith(batch, 4, 1, func(done purge.HistoryBatch) any { return done })
	require.NoError(t, err)
	rowWise := storetest.RowWise(t, l.Conn)
	require.Equal(t, purge.HistoryBatch{Cut: 2, Deleted: 1, RowWise: rowWise}, done)
	require.Equal(t, []string{"$2", "$3", "$4", "$5"}, l.Timeline(room))
	job, err := l.Journal.Job(l.Ctx, batch.Run.JobID)
	require.NoError(t, err)
	require.JSONEq(t, `{"Cut":2,"Deleted":1,"Kept":0,"RowWise":"`+rowWise+`"}`, string(job.Checkpoint))

	l.RequireUnchanged(func() {
		_, err := l.PurgeBatchWith(batch, 4, 1, func(purge.HistoryBatch) any { return func() {} })
		require.ErrorContains(t, err, "checkpoint", "a function has no JSON")
	})
}

// What is undone was not deleted, in a batch that is tried again or back at a savepoint.
func TestBatchCountsWhatItCommits(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	work := l.Work(room)
	undo := errors.New("undo")
	require.NoError(t, l.InBatch(work, func(b *journal.Batch) (any, error) {
		b.Count("events", 1000)
		b.Rollback(l.Ctx)
		b.Count("events", 3)
		undone, err := b.Savepoint(l.Ctx, func() error {
			b.Count("events", 100)
			b.Count("event_json", 100)
			return undo
		})
		require.NoError(t, err)
		require.ErrorIs(t, undone, undo)
		undone, err = b.Savepoint(l.Ctx, func() error { b.Count("event_json", 2); return nil })
		require.NoError(t, err)
		require.NoError(t, undone)
		return nil, nil
	}))
	require.JSONEq(t, `{"events": 3, "event_json": 2}`, storetest.One[string](l, `SELECT deleted::text FROM lethe.jobs`))
}

func TestPausedSweepCommitsNoBatch(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	run := l.Claim(l.Queue(""))
	l.Exec(`INSERT INTO lethe.pauses (scope, value, who, reason) VALUES ('job', $1, '@op:x', 'backup')`, run.JobID)
	b := l.Journal.BeginSweep(run, time.Minute)
	err := b.Commit(l.Ctx, 1)
	b.Rollback(l.Ctx)
	require.ErrorIs(t, err, journal.ErrPaused)
	l.Exec(`DELETE FROM lethe.pauses`)
	b = l.Journal.BeginSweep(run, time.Minute)
	defer b.Rollback(l.Ctx)
	require.NoError(t, b.Commit(l.Ctx, 1))
}

func TestBatchResetsTheFailures(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 3, 0)
	batch := l.Work(room)
	for want := 1; want <= 3; want++ {
		failures, err := l.Journal.FailBatch(l.Ctx, batch.Run, "why")
		require.NoError(t, err)
		require.Equal(t, want, failures)
	}
	_, err := l.PurgeBatch(batch, 2, 9)
	require.NoError(t, err)
	job, err := l.Journal.Job(l.Ctx, batch.Run.JobID)
	require.NoError(t, err)
	require.Zero(t, job.Failures)
}

func TestBatchOfASupersededRunChangesNothing(t *testing.T) {
	t.Parallel()
	for name, supersede := range map[string]func(*storetest.Lab, journal.Run){
		"claimed again": func(l *storetest.Lab, run journal.Run) {
			l.Age(run.JobID, time.Hour)
			require.NotEqual(l.T, run, l.Claim(run.JobID))
		},
		"released": func(l *storetest.Lab, run journal.Run) {
			l.Age(run.JobID, time.Hour)
			released, err := l.Journal.ReleaseStale(l.Ctx, time.Minute, 20, 9)
			require.NoError(l.T, err)
			require.Len(l.T, released, 1)
		},
		"yielded": func(l *storetest.Lab, run journal.Run) {
			require.NoError(l.T, l.Journal.YieldJob(l.Ctx, run, journal.Yield{}))
		},
		"ended": func(l *storetest.Lab, run journal.Run) {
			require.NoError(l.T, l.Journal.EndJob(l.Ctx, run, "cancelled", ""))
		},
		"deleted": func(l *storetest.Lab, run journal.Run) { l.Exec(`DELETE FROM lethe.jobs`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := storetest.New(t)
			l.Chain(room, "", 3, 0)
			batch := l.Work(room)
			supersede(l, batch.Run)
			l.RequireUnchanged(func() {
				_, err := l.PurgeBatch(batch, 3, 9)
				require.ErrorIs(t, err, journal.ErrSuperseded)
			})
		})
	}
}

func TestBatchOverridesTheDatabasesSettings(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 3, 0)
	for setting, hostile := range map[string]string{
		"default_transaction_isolation":       "serializable",
		"statement_timeout":                   "30s",
		"lock_timeout":                        "1h",
		"idle_in_transaction_session_timeout": "1d",
	} {
		l.Exec(fmt.Sprintf(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %%I SET %s = %%L', current_database(), '%s'); END $$`, setting, hostile))
	}
	l.Exec(`CREATE TABLE seen (name text, value text)`)
	l.WatchDeletes(`
		INSERT INTO seen SELECT name, current_setting(name) FROM pg_catalog.unnest(ARRAY[
			'transaction_isolation', 'statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout']) AS name;`)

	_, err := l.PurgeBatch(l.Work(room), 2, 9)
	require.NoError(t, err)
	require.Equal(t, []string{
		"idle_in_transaction_session_timeout 1min", "lock_timeout 5s", "statement_timeout 15min", "transaction_isolation read committed",
	}, storetest.All[string](l, `SELECT name || ' ' || value FROM seen ORDER BY 1`))
}

func TestBatchThatSleepsIsEndedByTheServer(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 3, 0)
	batch := l.Work(room)
	batch.Lease = 100 * time.Millisecond
	l.RequireUnchanged(func() {
		asleep := func() bool {
			return storetest.One[bool](l, `SELECT EXISTS (
				SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction')`)
		}
		_, err := l.PurgeBatchWith(batch, 3, 9, func(purge.HistoryBatch) any {
			require.Eventually(t, func() bool { return !asleep() }, time.Minute, 10*time.Millisecond)
			return nil
		})
		require.Error(t, err)
		require.True(t, postgres.Transient(err), "%v", err)
	})
	batch.Lease = time.Minute // a busy machine may take longer than 100 ms between two statements
	_, err := l.PurgeBatch(batch, 3, 9)
	require.NoError(t, err, "the store goes on with another connection")
}

func TestBatchDoesNotWaitLongForALockedRow(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Chain(room, "", 3, 0)
	batch := l.Work(room)
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	l.Exec(`SELECT FROM events WHERE event_id = '$1' FOR UPDATE`)
	l.RequireUnchanged(func() {
		_, err := l.PurgeBatch(batch, 3, 9)
		require.ErrorContains(t, err, "lock timeout")
		require.True(t, postgres.Transient(err))
		require.False(t, postgres.Unreachable(err))
	})
	require.NoError(t, tx.Rollback(l.Ctx))
	_, err = l.PurgeBatch(batch, 3, 9)
	require.NoError(t, err)
}

// record commits a batch that only moves the checkpoint.
func record(l *storetest.Lab, work storetest.Work, checkpoint any) error {
	return l.InBatch(work, func(*journal.Batch) (any, error) { return checkpoint, nil })
}

func TestMoveCheckpoint(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	batch := l.Work("!r")
	require.NoError(t, record(l, batch, map[string]int{"n": 1}))
	checkpoint := func() string {
		job, err := l.Journal.Job(l.Ctx, batch.Run.JobID)
		require.NoError(t, err)
		return string(job.Checkpoint)
	}
	require.JSONEq(t, `{"n":1}`, checkpoint())

	fenced := batch
	fenced.Fence--
	require.ErrorIs(t, record(l, fenced, 2), journal.ErrFenced)
	superseded := batch
	superseded.Run.Attempt++
	require.ErrorIs(t, record(l, superseded, 2), journal.ErrSuperseded)
	var unsupported *json.UnsupportedTypeError
	require.ErrorAs(t, record(l, batch, func() {}), &unsupported)
	require.JSONEq(t, `{"n":1}`, checkpoint())
}
