package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/lock"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
	"lethe/internal/store/purge"
)

func TestWorkerPurges(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	id := l.submit(room, 6)
	l.work(WorkerOptions{BatchEvents: 2})
	status := l.ends(id)
	require.Equal(t, journal.Complete, status.State)
	require.Empty(t, status.Error)
	require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
	var at purgeHistoryCheckpoint
	require.NoError(t, json.Unmarshal([]byte(status.Progress), &at))
	require.EqualValues(t, 3, at.Batches)
	require.EqualValues(t, 5, at.EventsDeleted)
	require.Zero(t, l.redis.Exists(l.Ctx, l.board.Names().RoomWriteLock(room)).Val(), "the room is unlocked")

	again := l.submit(room, 6)
	require.Equal(t, journal.Complete, l.ends(again).State)
	require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
}

// A second walk purges what arrived below the first one's cuts meanwhile.
func TestWorkerPurgesWhatArrivesLate(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	l.Exec(`CREATE FUNCTION arrive() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.events (event_id, room_id, type, topological_ordering, depth, processed, outlier, sender)
		VALUES ('$late', OLD.room_id, 't', 1, 1, true, false, '@zoe:far');
		RETURN OLD;
	END $$`)
	l.Exec(`CREATE TRIGGER check_event_stream_ordering BEFORE DELETE ON events
		FOR EACH ROW WHEN (OLD.depth = 4) EXECUTE FUNCTION arrive()`)
	id := l.submit(room, 6)
	l.work(WorkerOptions{BatchEvents: 1})
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
}

func TestWorkerSaysWhyAJobFailed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		before  int64
		prepare func(l *lab, id string)
		want    string
	}{
		"beyond the extremities": {before: 10, want: "400: topological_ordering is greater than forward extremities"},
		"beyond them with nothing to purge": {before: 10, want: "400: ", prepare: func(l *lab, _ string) {
			l.Exec(`UPDATE events SET outlier = true`)
			l.Exec(`INSERT INTO state_events (event_id, room_id, type, state_key) SELECT event_id, room_id, 't', event_id FROM events`)
		}},
		"unknown table": {before: 6, want: "unknown table stars references events", prepare: func(l *lab, _ string) {
			l.Exec(`CREATE TABLE stars (event_id text REFERENCES events (event_id) ON DELETE CASCADE)`)
		}},
		"missing table": {before: 6, want: "it has no table redactions", prepare: func(l *lab, _ string) {
			l.Exec(`DROP TABLE redactions`)
		}},
		"error for good": {before: 6, want: "made to fail (SQLSTATE P0001)", prepare: func(l *lab, _ string) {
			l.failing("P0001", 0)
		}},
		"unknown kind": {before: 6, want: `"soup" is not a kind of job`, prepare: func(l *lab, id string) {
			l.Exec(`ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_kind_check`)
			l.Exec(`UPDATE lethe.jobs SET kind = 'soup' WHERE id = $1`, id)
		}},
		"bad parameters": {before: 6, want: "decode the job's parameters", prepare: func(l *lab, id string) {
			l.Exec(`UPDATE lethe.jobs SET parameters = '{"token":"x"}' WHERE id = $1`, id)
		}},
		"bad checkpoint": {before: 6, want: `unknown phase "soup"`, prepare: func(l *lab, id string) {
			l.Exec(`UPDATE lethe.jobs SET checkpoint = '{"phase":"soup"}' WHERE id = $1`, id)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.chain(room, 9)
			id := l.submit(room, c.before)
			if c.prepare != nil {
				c.prepare(l, id)
			}
			l.work(WorkerOptions{BatchEvents: 1})
			require.Eventually(t, func() bool { return l.Job(id).State == journal.Failed }, time.Minute, 20*time.Millisecond)
			require.Contains(t, l.Job(id).Error, c.want)
			require.Len(t, l.depths(room), 9, "before the first write")
			require.Zero(t, l.Job(id).Failures, "nothing was tried again")
		})
	}
}

func TestWorkerTriesAgain(t *testing.T) {
	t.Parallel()
	for condition, times := range map[string]int{"40P01": 3, "40001": 3, "23503": maxReferenced - 1, "57014": 3} {
		t.Run(condition, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.chain(room, 9)
			l.failing(condition, times)
			id := l.submit(room, 6)
			l.work(WorkerOptions{})
			require.Equal(t, journal.Complete, l.ends(id).State)
			require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
			require.Equal(t, 1, l.Job(id).Attempt, "in one run")
			require.Zero(t, l.Job(id).Failures)
		})
	}
}

func TestWorkerGivesUp(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	l.failing("40P01", 0)
	id := l.submit(room, 6)
	l.Exec(`UPDATE lethe.jobs SET failures = $1`, dispatch.MaxFailures-3)
	l.work(WorkerOptions{})
	status := l.ends(id)
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "gave up after 20 failures without progress: ")
	require.Contains(t, status.Error, "made to fail (SQLSTATE 40P01)")
	require.Len(t, l.depths(room), 9)
}

func TestYieldsAreNoFailures(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	id := l.submit(room, 6)
	l.Exec(`UPDATE lethe.jobs SET failures = $1`, dispatch.MaxFailures-1)
	l.work(WorkerOptions{BatchEvents: 2, TimeSlice: time.Nanosecond})
	require.Eventually(t, func() bool { return l.Job(id).Attempt >= 3 }, time.Minute, 20*time.Millisecond)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Equal(t, dispatch.MaxFailures-1, l.Job(id).Failures)
	require.Equal(t, 1, l.Job(id).Generation)
	task, err := l.asynq.GetTaskInfo(string(jobs.Default), dispatch.TaskID(id, 1))
	require.NoError(t, err)
	require.Zero(t, task.Retried)
}

func TestDrainedWorkerLeavesItsJobToAnother(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 60)
	id := l.submit(room, 60)
	stop := l.work(WorkerOptions{BatchEvents: 1})
	require.Eventually(t, func() bool { return l.Job(id).Checkpoint != nil }, time.Minute, time.Millisecond)
	stop()
	job := l.Job(id)
	require.Equal(t, journal.Queued, job.State)
	require.Equal(t, 1, job.Generation)
	left := len(l.depths(room))
	require.Greater(t, left, 1)
	var at purgeHistoryCheckpoint
	require.NoError(t, json.Unmarshal(job.Checkpoint, &at))
	require.EqualValues(t, 60-left, at.EventsDeleted)

	l.work(WorkerOptions{})
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Equal(t, []int64{60}, l.depths(room))
}

func TestWorkerOutlivesPoison(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	client := asynq.NewClientFromRedisClient(l.redis)
	ended := l.submit("!ended:x", 1)
	require.NoError(t, l.Journal.EndJob(l.Ctx, l.claim(ended), journal.Complete, ""))
	for i, body := range []string{
		"", "{", "null", "[]", "{}", `{"job_id":7}`, `{"job_id":"x","generation":"1"}`, "\x00\xff",
		`{"job_id":"AAAAAAAAAAAAAAAA","generation":1}`, `{"job_id":"'; DROP TABLE","generation":-1}`,
		fmt.Sprintf(`{"job_id":%q,"generation":1}`, ended), fmt.Sprintf(`{"job_id":%q,"generation":2}`, ended),
		strings.Repeat(" ", 1<<20),
	} {
		for _, kind := range []string{"purge_history", "no such kind"} {
			_, err := client.EnqueueContext(l.Ctx, asynq.NewTask(kind, []byte(body)), asynq.Queue(string(jobs.Default)))
			require.NoError(t, err, i)
		}
	}
	id := l.submit(room, 6)
	l.work(WorkerOptions{})
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Eventually(t, func() bool {
		info, err := l.asynq.GetQueueInfo(string(jobs.Default))
		return err == nil && info.Pending+info.Active+info.Retry+info.Scheduled == 0
	}, time.Minute, 50*time.Millisecond, "none comes back")
	archived, err := l.asynq.ListArchivedTasks(string(jobs.Default), asynq.PageSize(1000))
	require.NoError(t, err)
	require.NotEmpty(t, archived)
	for _, task := range archived {
		require.Zero(t, task.Retried, "%q", task.Payload)
	}
	require.Equal(t, journal.Complete, l.Job(ended).State)
}

// A panicker is a log that panics when the room's job begins, the first time.
type panicker struct{ done atomic.Bool }

func (p *panicker) Write(line []byte) (int, error) {
	begins := bytes.Contains(line, []byte(`"msg":"job runs"`)) && bytes.Contains(line, []byte(`"room":"`+room+`"`))
	if begins && !p.done.Swap(true) {
		panic("made to panic")
	}
	return len(line), nil
}

func TestWorkerOutlivesAPanic(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	l.chain("!other:x", 9)
	var panics panicker
	l.log = observe.NewLogger(&panics, "debug", "json")
	id := l.submit(room, 6)
	l.work(WorkerOptions{Concurrency: 1})
	require.Eventually(t, panics.done.Load, time.Minute, 10*time.Millisecond)
	require.Equal(t, journal.Complete, l.ends(l.submit("!other:x", 6)).State)
	require.Len(t, l.depths(room), 9)

	require.Equal(t, journal.Running, l.Job(id).State, "as if its worker had died")
	// asynq delivers the task once more, and would claim a job whose heartbeat is old.
	require.Eventually(t, func() bool {
		task, err := l.asynq.GetTaskInfo(string(jobs.Default), dispatch.TaskID(id, 1))
		return errors.Is(err, asynq.ErrTaskNotFound) || err == nil && task.State == asynq.TaskStateCompleted
	}, time.Minute, 10*time.Millisecond, "the task is dropped")
	l.vanish(id)
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Equal(t, 1, l.Job(id).Failures)
	require.Equal(t, journal.Complete, l.ends(id).State)
}

func TestJobsOfOneRoomTakeTurns(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	ids := []string{l.submit(room, 3), l.submit(room, 6), l.submit(room, 5)}
	l.work(WorkerOptions{BatchEvents: 1})
	for _, id := range ids {
		require.Equal(t, journal.Complete, l.ends(id).State)
		require.Zero(t, l.Job(id).Failures)
	}
	require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
}

// The result for a job depends on the error of its batch.
func TestClassify(t *testing.T) {
	t.Parallel()
	l := setup(t)
	w := l.worker(WorkerOptions{})
	run := l.claim(l.submit(room, 6))
	pg := func(code string) error { return fmt.Errorf("batch: %w", &pgconn.PgError{Code: code, Message: "why"}) }
	undefined := pg("42703")
	for name, c := range map[string]struct {
		err     error
		counted bool // as a failure; then it is tried again
		want    error
	}{
		"superseded":           {err: journal.ErrSuperseded, want: journal.ErrSuperseded},
		"fenced":               {err: journal.ErrFenced},
		"lock lost":            {err: fmt.Errorf("%w: %w", lock.ErrLockLost, context.Canceled)},
		"no Redis":             {err: fmt.Errorf("%w: %w", lock.ErrUnavailable, context.DeadlineExceeded)},
		"draining":             {err: fmt.Errorf("%w: %w", lock.ErrTaken, errDraining)},
		"database gone":        {err: pg("57P01")},
		"deadlock":             {err: pg("40P01"), counted: true},
		"idle in transaction":  {err: pg("25P03"), counted: true},
		"beyond extremities":   {err: purge.ErrBeyondExtremities, want: purge.ErrBeyondExtremities},
		"catalog":              {err: purge.ErrCatalog, want: purge.ErrCatalog},
		"undefined column":     {err: undefined, want: undefined},
		"superseded by fenced": {err: errors.Join(journal.ErrFenced, journal.ErrSuperseded), want: journal.ErrSuperseded},
	} {
		before := l.Job(run.JobID).Failures
		err := w.classify(l.Ctx, run, c.err, l.log)
		if c.want == nil {
			require.NoError(t, err, name)
		} else {
			require.ErrorIs(t, err, c.want, name)
		}
		if c.counted {
			before++
		}
		require.Equal(t, before, l.Job(run.JobID).Failures, name)
	}

	var yield jobs.YieldError
	require.ErrorAs(t, w.classify(l.Ctx, run, fmt.Errorf("lock: %w", lock.ErrTaken), l.log), &yield)
	require.Positive(t, yield.After, "so that the room's other users get on")
	require.Equal(t, journal.RoomLockTaken, yield.WaitsFor)
	require.ErrorAs(t, w.classify(l.Ctx, run, fmt.Errorf("%w: NOPERM", lock.ErrRefused), l.log), &yield)
	require.Equal(t, jobs.YieldRedisRefuses, yield.Reason)
	require.Contains(t, yield.WaitsFor, "NOPERM")

	given, giveUp := context.WithCancel(l.Ctx)
	giveUp()
	require.ErrorAs(t, w.classify(given, run, context.Canceled, l.log), &yield)
	lost, lose := context.WithCancelCause(l.Ctx)
	lose(journal.ErrSuperseded)
	require.ErrorIs(t, w.classify(lost, run, context.Canceled, l.log), journal.ErrSuperseded)

	stale := run
	stale.Attempt--
	require.ErrorIs(t, w.classify(l.Ctx, stale, pg("40P01"), l.log), journal.ErrSuperseded, "it may not even count")

	// A reference that another attempt sees is no race.
	l.Exec(`UPDATE lethe.jobs SET failures = 0`)
	require.NoError(t, w.classify(l.Ctx, run, pg("23503"), l.log))
	require.ErrorContains(t, w.classify(l.Ctx, run, pg("23503"), l.log), "rows are referenced that the batch deletes: batch: ")
	for _, hopeless := range []string{"23502", "42P01", "42703"} {
		require.Error(t, w.classify(l.Ctx, run, pg(hopeless), l.log), hopeless)
	}

	l.Exec(`UPDATE lethe.jobs SET failures = $1`, dispatch.MaxFailures-2)
	require.NoError(t, w.classify(l.Ctx, run, pg("40P01"), l.log))
	require.ErrorContains(t, w.classify(l.Ctx, run, pg("40P01"), l.log), "gave up after 20 failures without progress: batch: ")
}

// A commit whose answer was lost has moved the checkpoint. So after a failed batch the
// worker believes the row, and not what it remembers.
func TestWorkerReadsTheRowAfterAFailedBatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`CREATE FUNCTION aside.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF (NEW.checkpoint->>'events_deleted')::bigint > 0 THEN
			RAISE 'not now' USING ERRCODE = 'serialization_failure';
		END IF;
		RETURN NEW;
	END $$`)
	l.Exec(`CREATE TRIGGER refuse BEFORE UPDATE ON lethe.jobs FOR EACH ROW EXECUTE FUNCTION aside.refuse()`)
	id := l.submit(room, 6)
	l.work(WorkerOptions{})
	require.Eventually(t, func() bool { return l.Job(id).Failures > 0 }, time.Minute, 20*time.Millisecond)
	l.Exec(`UPDATE lethe.jobs SET checkpoint = '{"phase": "state_groups", "size": 9}' WHERE id = $1`, id)
	// The trigger stays, because a batch may be at work that began before that.
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Len(t, l.depths(room), 9, "the row says that no events are left")
}
