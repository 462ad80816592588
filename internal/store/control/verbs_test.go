package control_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// Every verb on a job in every state: the state afterwards, "" if it is refused.
var verbs = map[control.Verb]map[journal.State]journal.State{
	control.VerbCancel: {
		journal.Scheduled: journal.Cancelled, journal.Queued: journal.Cancelled, journal.Running: journal.Cancelled,
		journal.Held: journal.Cancelled, journal.Paused: journal.Cancelled, journal.Absorbed: journal.Cancelled,
	},
	control.VerbPause: {
		journal.Scheduled: journal.Scheduled, journal.Queued: journal.Paused, journal.Running: journal.Running,
		journal.Held: journal.Held, journal.Paused: journal.Paused, journal.Absorbed: journal.Absorbed,
	},
	control.VerbResume: {journal.Paused: journal.Queued},
	control.VerbRetry:  {journal.Failed: journal.Queued, journal.Cancelled: journal.Queued},
	control.VerbPriority: {
		journal.Scheduled: journal.Scheduled, journal.Queued: journal.Queued, journal.Running: journal.Running,
		journal.Held: journal.Held, journal.Paused: journal.Paused, journal.Absorbed: journal.Absorbed,
	},
}

func TestEachVerbInEachState(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, verb := range control.Verbs() {
		for i, state := range journal.States() {
			name := fmt.Sprintf("%s of a job that is %s", verb, state)
			id := l.in(state, fmt.Sprintf("!%s%d:x", verb, i))
			read := func() journal.Job {
				job := l.Job(id)
				job.EndedFor, job.WaitsSince = 0, 0
				return job
			}
			before := read()
			request := control.Request{Verb: verb, Queue: jobs.Critical}
			want, may := verbs[verb][state]

			rehearsal := request
			rehearsal.DryRun = true
			dry := l.do(rehearsal, id)
			require.Equal(t, may, dry.Done, name)
			require.Equal(t, before, read(), "a dry run of the %s changes nothing", name)
			require.Len(t, l.log(id), 1, name)

			outcome := l.do(request, id)
			require.Equal(t, dry.Refusal, outcome.Refusal, name)
			require.Equal(t, may, outcome.Done, name)
			require.Equal(t, may, outcome.Refusal == "", name)
			after := read()
			if !may {
				require.Equal(t, before, after, name)
				require.Len(t, l.log(id), 1, name)
				continue
			}
			require.Equal(t, want, after.State, name)
			require.Equal(t, want, outcome.Job.State, name)
			switch {
			case verb == control.VerbCancel, verb == control.VerbRetry, verb == control.VerbResume,
				verb == control.VerbPriority && state == journal.Queued:
				require.Equal(t, before.Generation+1, after.Generation, name)
			default:
				require.Equal(t, before.Generation, after.Generation, name)
			}
			require.Equal(t, want == journal.Queued && after.Generation > before.Generation, after.TaskMissing, name)
			log := l.log(id)
			require.Equal(t, string(verb), log[1].Event, name)
			require.Equal(t, "@op:x", log[1].Who, name)
			require.Equal(t, "because", log[1].Reason, name)
			require.Contains(t, string(log[1].Detail), `"from": "`+string(state)+`"`, name)
			if want != state {
				require.Equal(t, string(want), log[2].Event, name)
			}
		}
	}
}

func TestRunOfACancelledJobLosesItsBatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	work := l.Work(room)
	err := l.InBatch(work, func(b *journal.Batch) (any, error) {
		_, err := b.Exec(l.Ctx, `INSERT INTO rooms (room_id) VALUES ('!written:x')`)
		require.NoError(t, err)
		require.True(t, l.do(control.Request{Verb: control.VerbCancel}, work.Run.JobID).Done, "it waits for no batch")
		return map[string]int{"at": 1}, nil
	})
	require.ErrorIs(t, err, journal.ErrSuperseded)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM rooms WHERE room_id = '!written:x'`))
	lost, err := l.Journal.Heartbeat(l.Ctx, []journal.Run{work.Run})
	require.NoError(t, err)
	require.Equal(t, []journal.Run{work.Run}, lost)
	require.Equal(t, []string{"queued", "running", "cancel", "cancelled"}, names(l.log(work.Run.JobID)))
	require.False(t, l.do(control.Request{Verb: control.VerbCancel}, work.Run.JobID).Done)
}

func TestCancelSaysToWhichDepthAPurgeIsComplete(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.in(journal.Running, room)
	outcome := l.do(control.Request{Verb: control.VerbCancel}, id)
	require.EqualValues(t, 7, *outcome.Job.CompleteBelow)
	for _, e := range l.log(id)[1:] {
		require.Contains(t, string(e.Detail), `"complete_below": 7`, e.Event)
	}
}

func TestDeleteIsNotCancelledPastTheVanishOfItsRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for checkpoint, may := range map[string]bool{
		`null`:                                                       true,
		`{"phase": "shutting_down"}`:                                 true,
		`{"phase": "purging"}`:                                       true,
		`{"phase": "purging", "from": 7}`:                            true, // it has purged the history of a room that is there
		`{"phase": "purging", "look_at": 7}`:                         false,
		`{"phase": "purging", "at": {"part": "shown"}}`:              false,
		`{"phase": "purging", "at": {"part": "events", "after": 1}}`: false,
	} {
		id := l.in(journal.Held, room)
		l.Exec(`UPDATE lethe.jobs SET kind = 'delete_room', checkpoint = nullif($2::jsonb, 'null') WHERE id = $1`, id, checkpoint)
		outcome := l.do(control.Request{Verb: control.VerbCancel}, id)
		require.Equal(t, may, outcome.Done, checkpoint)
		if !may {
			require.Contains(t, outcome.Refusal, "its room is gone")
			l.Exec(`UPDATE lethe.jobs SET kind = 'purge_history' WHERE id = $1`, id)
		}
	}
}

func TestCancelledAbsorberGivesItsJobsBack(t *testing.T) {
	t.Parallel()
	l := setup(t)
	absorber, absorbed := l.in(journal.Queued, room), l.in(journal.Absorbed, room)
	l.Exec(`UPDATE lethe.jobs SET checkpoint = jsonb_build_object('absorbed_by', $2::text) WHERE id = $1`, absorbed, absorber)
	require.True(t, l.do(control.Request{Verb: control.VerbCancel}, absorber).Done)
	require.Equal(t, journal.Queued, l.Job(absorbed).State)
	require.True(t, l.Job(absorbed).TaskMissing)
}

func TestRetryIsRefusedWhereTheRoomHasAnother(t *testing.T) {
	t.Parallel()
	l := setup(t)
	failed, open := l.in(journal.Failed, room), l.in(journal.Queued, room)
	l.Exec(`UPDATE lethe.jobs SET kind = 'delete_room'`)
	outcome := l.do(control.Request{Verb: control.VerbRetry}, failed)
	require.Contains(t, outcome.Refusal, "another delete")
	require.Equal(t, journal.Failed, outcome.Job.State)
	l.do(control.Request{Verb: control.VerbCancel}, open)
	require.True(t, l.do(control.Request{Verb: control.VerbRetry}, failed).Done)
	require.JSONEq(t, `{"phase": "events", "complete_below": 7, "events_deleted": 5, "events_kept": 2, "batches": 3}`,
		string(l.Job(failed).Checkpoint), "it goes on where it was")
}

func TestRetriedPurgeThatWasAbsorbedDoesItsWorkItself(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.in(journal.Absorbed, room)
	l.Exec(`UPDATE lethe.jobs SET state = 'failed', error = 'why', ended_at = now() WHERE id = $1`, id)
	require.True(t, l.do(control.Request{Verb: control.VerbRetry}, id).Done)
	require.Empty(t, l.Job(id).Checkpoint)
}

func TestPriorityOfASweepIsNotLow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	sweep, purge := l.in(journal.Queued, ""), l.in(journal.Queued, room)
	require.Contains(t, l.do(control.Request{Verb: control.VerbPriority, Queue: jobs.Low}, sweep).Refusal, "sweep")
	require.True(t, l.do(control.Request{Verb: control.VerbPriority, Queue: jobs.Low}, purge).Done)
	require.Equal(t, jobs.Low, l.Job(purge).Queue)
	require.False(t, l.do(control.Request{Verb: control.VerbPriority, Queue: jobs.Low}, purge).Done)
	other := l.in(journal.Queued, room)
	require.Contains(t, l.do(control.Request{Verb: control.VerbPriority, Queue: jobs.Low}, other).Refusal, "another purge")
}

func TestRequestsWithoutMeaning(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.in(journal.Queued, room)
	for _, request := range []control.Request{
		{}, {Verb: "destroy"}, {Verb: control.VerbPriority}, {Verb: control.VerbPriority, Queue: "soup"},
	} {
		_, err := l.control.Do(l.Ctx, request, control.Filter{}, 1)
		require.ErrorIs(t, err, control.ErrRequest)
	}
	_, err := l.control.Do(l.Ctx, control.Request{Verb: control.VerbPause, Until: time.Now().Add(-time.Hour)}, control.Filter{}, 1)
	require.ErrorIs(t, err, control.ErrUntil)
	for _, filter := range []control.Filter{{Room: "\x00"}, {Requester: "\xff"}, {IDs: []string{"\x00"}}, {IDs: []string{}}, {Room: "!other:x"}} {
		outcomes, err := l.control.Do(l.Ctx, control.Request{Verb: control.VerbCancel}, filter, 9)
		require.NoError(t, err)
		require.Empty(t, outcomes)
	}
	require.Equal(t, journal.Queued, l.Job(id).State)
}

func TestVerbOnAllThatMatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var ids []string
	for i := range 5 {
		ids = append(ids, l.in(journal.Queued, room))
		l.Exec(`UPDATE lethe.jobs SET created_at = now() + $2 * interval '1 second' WHERE id = $1`, ids[i], i)
	}
	l.in(journal.Complete, room)
	other := l.in(journal.Queued, "!other:x")
	cancel := control.Request{Verb: control.VerbCancel}
	done := func(outcomes []control.Outcome, err error) (did []string) {
		require.NoError(t, err)
		for _, o := range outcomes {
			require.True(t, o.Done, o.Refusal)
			did = append(did, o.Job.ID)
		}
		return did
	}
	require.Equal(t, ids[:2], done(l.control.Do(l.Ctx, cancel, control.Filter{Room: room}, 2)), "the oldest first")
	require.Equal(t, ids[2:], done(l.control.Do(l.Ctx, cancel, control.Filter{Room: room}, 99)), "without those that have ended")
	require.Equal(t, journal.Queued, l.Job(other).State)
}

// Claims, commits, holds, pauses and every verb, all at once: whatever wins, a job has one
// owner at most, and the log ends with its state.
func TestVerbsAndRunsAtOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const rooms, workers = 6, 4
	ctx, stop := context.WithTimeout(l.Ctx, 5*time.Second)
	defer stop()
	var ids []string
	for i := range rooms {
		ids = append(ids, l.Queue(fmt.Sprintf("!r%d:x", i)))
	}
	var group sync.WaitGroup
	expected := func(err error) {
		for _, fine := range []error{
			nil, journal.ErrSuperseded, journal.ErrRoomBusy, journal.ErrPaused, journal.ErrHeld, journal.ErrFenced, postgres.ErrNotFound,
			context.DeadlineExceeded,
		} {
			if errors.Is(err, fine) {
				return
			}
		}
		if ctx.Err() == nil {
			t.Errorf("unexpected: %v", err)
		}
	}
	for range workers {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				id := ids[n%len(ids)]
				job, err := l.Journal.Job(ctx, id)
				if err != nil {
					continue
				}
				job, err = l.Journal.ClaimJob(ctx, id, job.Generation, jobs.HeartbeatStale, 0)
				expected(err)
				if err != nil {
					continue
				}
				fence, err := l.Journal.NextFence(ctx, job.Room)
				expected(err)
				b := l.Journal.Begin(storetest.RunOf(job), journal.RoomLock{Room: job.Room, Fence: fence, Lease: time.Minute})
				b.Count("events", 1)
				err = b.Commit(ctx, map[string]int{"n": n})
				b.Rollback(ctx)
				expected(err)
				switch {
				case errors.Is(err, journal.ErrPaused):
					expected(l.pauses.PauseRun(ctx, storetest.RunOf(job)))
				case errors.Is(err, journal.ErrHeld):
					expected(l.Journal.HoldJob(ctx, storetest.RunOf(job)))
				default:
					expected(l.Journal.YieldJob(ctx, storetest.RunOf(job), journal.Yield{}))
				}
			}
		})
	}
	for i, verb := range control.Verbs() {
		group.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				request := control.Request{Verb: verb, Who: "@op:x", Queue: []journal.Queue{jobs.Critical, jobs.Default}[n%2]}
				_, err := l.control.Do(ctx, request, control.Filter{IDs: []string{ids[n%len(ids)]}}, 1)
				expected(err)
			}
		})
	}
	group.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			where := fmt.Sprintf("!r%d:x", n%rooms)
			_, err := l.control.SetPause(ctx, control.Pause{Scope: control.ScopeRoom, Value: where, Who: "@op:x"})
			expected(err)
			_, err = l.control.LiftPause(ctx, control.ScopeRoom, where, "@op:x")
			expected(err)
			_, err = l.Holds.Place(ctx, where, "case", "@counsel:x")
			expected(err)
			_, err = l.Holds.Release(ctx, where, "@counsel:x")
			expected(err)
			_, err = l.Journal.ResumeHeld(ctx, 9)
			expected(err)
		}
	})
	group.Wait()
	for _, id := range ids {
		job, err := l.control.Job(l.Ctx, id)
		require.NoError(t, err)
		var states []string
		for _, e := range l.log(id) {
			if e.Who == "" || e.Event == "queued" {
				states = append(states, e.Event)
			}
		}
		last := states[len(states)-1]
		if job.State == journal.Queued && last == "running" {
			continue // a run that has yielded does not make the log longer
		}
		require.Equal(t, string(job.State), last, "%v", states)
	}
	require.Positive(t, storetest.One[int](l.Lab, `SELECT coalesce(sum((deleted ->> 'events')::int), 0) FROM lethe.jobs`))
}

// A delete may leave the rest to a task of the homeserver, which would go on after a cancel.
func TestCancelEndsTheTaskAtTheHomeserver(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`DROP TABLE IF EXISTS scheduled_tasks`)
	l.Exec(`CREATE TABLE scheduled_tasks (id text PRIMARY KEY, status text NOT NULL)`)
	l.Exec(`INSERT INTO scheduled_tasks VALUES ('waiting', 'scheduled'), ('ended', 'complete'), ('other', 'scheduled'), ('running', 'active')`)
	c := control.New(storetest.On(t, l.URL).DB)
	cancel := func(task string) (control.Outcome, string) {
		id := l.in(journal.Running, "!"+task+":x")
		l.Exec(`UPDATE lethe.jobs SET checkpoint = jsonb_build_object('task', $2::text) WHERE id = $1`, id, task)
		outcomes, err := c.Do(l.Ctx, control.Request{Verb: control.VerbCancel, Who: "@op:x"}, control.Filter{IDs: []string{id}}, 1)
		require.NoError(t, err)
		return outcomes[0], id
	}
	for _, task := range []string{"waiting", "ended", "gone"} {
		outcome, _ := cancel(task)
		require.True(t, outcome.Done, outcome.Refusal)
	}
	refused, id := cancel("running")
	require.Equal(t, "Synapse runs its task running for the job, which Lethe cannot stop", refused.Refusal)
	require.Equal(t, journal.Running, l.Job(id).State)
	require.Equal(t, []string{"ended", "other", "running"}, storetest.All[string](l.Lab, `SELECT id FROM scheduled_tasks ORDER BY id`))
}
