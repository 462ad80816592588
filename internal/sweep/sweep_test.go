package sweep

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/redisdb"
	"lethe/internal/retention"
	"lethe/internal/schema"
	"lethe/internal/selfcheck"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// day is a lifetime, in ms.
const day = 24 * int64(time.Hour/time.Millisecond)

// A lab is a database and a Redis, without a worker.
type lab struct {
	*storetest.Lab
	metrics *observe.Metrics
}

func setup(t *testing.T) *lab {
	t.Helper()
	return &lab{storetest.New(t, schema.Worker), observe.NewMetrics(observe.NewRegistry())}
}

// sweeper makes jobs whose parameters say what it has told of them.
func (l *lab) sweeper(options Options) *Sweeper {
	l.T.Helper()
	client, err := redisdb.Open(devstacktest.Redis(l.T).URL())
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = client.Close() })
	log := slog.New(slog.DiscardHandler)
	options.ServerName = storetest.ServerName
	options.PurgeParameters = func(p Purge) any { return map[string]any{"purge": p} }
	options.DeleteParameters = func(d Delete) any { return map[string]any{"delete": d} }
	return New(Services{
		DB: l.DB, Dispatcher: dispatch.New(client, nil), Purger: l.Purger, Check: selfcheck.New(l.DB, nil, log, l.metrics),
		Log: log, Metrics: l.metrics,
	}, options)
}

// accept accepts a sweep and claims its job.
func (l *lab) accept(kind journal.Kind, parameters retention.SweepParameters) (journal.Job, journal.Run) {
	l.T.Helper()
	encoded, err := json.Marshal(parameters)
	require.NoError(l.T, err)
	id := jobs.NewID()
	require.NoError(l.T, l.Journal.InsertJob(l.Ctx, journal.Job{ID: id, Kind: kind, Parameters: encoded, Requester: retention.Requester}, false))
	run := l.Claim(id)
	return l.Job(id), run
}

// age makes rooms whose events arrived so many days ago. The newest event of all has
// just arrived, in a room that no sweep looks at.
func (l *lab) age(rooms ...string) {
	l.T.Helper()
	for i, room := range append(rooms, "!elsewhere:far") {
		l.Exec(`INSERT INTO rooms (room_id) VALUES ($1)`, room)
		l.Exec(`
			INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender, received_ts)
			SELECT '$' || n || $1, $1, 't', n, n, $2::int * 10 + n, true, false, '@zoe:far',
			       extract(epoch FROM now())::numeric * 1000 - CASE WHEN $3 THEN 0 ELSE $4::bigint END
			FROM generate_series(1, 3) n`, room, i, i == len(rooms), 9*day)
		if i < len(rooms) {
			l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ('$create' || $1, $1, 'm.room.create', '')`, room)
		}
	}
}

// made are the jobs that sweeps have made, in the order of their rooms.
func (l *lab) made() []journal.Job {
	l.T.Helper()
	var made []journal.Job
	for _, id := range storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs WHERE queue = 'low' ORDER BY room_id`) {
		made = append(made, l.Job(id))
	}
	return made
}

func count(t *testing.T, metric prometheus.Metric) int {
	t.Helper()
	var written dto.Metric
	require.NoError(t, metric.Write(&written))
	return int(written.GetCounter().GetValue())
}

func keeping(lifetime int64) retention.Config {
	return retention.Config{Enabled: true, Jobs: []retention.Job{{Name: "all"}}, DefaultPolicy: retention.Policy{MaxLifetime: &lifetime}}
}

func TestRetentionSweepMakesPurges(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.age("!a:x", "!b:x", "!c:x")
	sweeper := l.sweeper(Options{Retention: keeping(day), PageRooms: 2})
	job, run := l.accept(jobs.RetentionSweep, retention.SweepParameters{Job: "all"})
	before := time.Now()
	for _, c := range []struct {
		done  bool
		after string
		rooms int
	}{{false, "!b:x", 2}, {false, "!c:x", 3}, {true, "!c:x", 3}} {
		// A run that begins at the job's row does what this one would do next.
		sweep, err := sweeper.Retention(l.Ctx, l.Job(job.ID), run)
		require.NoError(t, err)
		done, err := sweep.Next(l.Ctx)
		require.NoError(t, err)
		require.Equal(t, c.done, done)
		require.Equal(t, c.after, sweep.Checkpoint().After)
		require.EqualValues(t, c.rooms, sweep.Checkpoint().Sweep.Enqueued)
		require.Len(t, l.made(), c.rooms)
		require.Equal(t, c.rooms, count(t, l.metrics.SweepRooms.WithLabelValues("enqueued")))
	}
	for i, made := range l.made() {
		require.Equal(t, jobs.PurgeHistory, made.Kind)
		require.Equal(t, []string{"!a:x", "!b:x", "!c:x"}[i], made.Room)
		require.Equal(t, retention.Requester, made.Requester)
		var parameters struct{ Purge Purge }
		require.NoError(t, json.Unmarshal(made.Parameters, &parameters))
		require.Equal(t, "all", parameters.Purge.RetentionJob)
		require.EqualValues(t, 3, parameters.Purge.Token.Topological)
		require.InDelta(t, before.UnixMilli()-day, parameters.Purge.ExpiredBefore, float64(time.Minute.Milliseconds()))
	}
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs WHERE queue = 'low' AND task_missing_since IS NOT NULL`), "all are enqueued")
}

func TestSweepYieldsWhileTheQueueIsFull(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.age("!a:x", "!b:x", "!c:x")
	_, run := l.accept(jobs.RetentionSweep, retention.SweepParameters{Job: "all"})
	sweep, err := l.sweeper(Options{Retention: keeping(day), MaxQueued: 2}).Retention(l.Ctx, l.Job(run.JobID), run)
	require.NoError(t, err)
	_, err = sweep.Next(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, "!b:x", sweep.Checkpoint().After, "the page ends where the queue is full")
	_, err = sweep.Next(l.Ctx)
	var yield jobs.YieldError
	require.ErrorAs(t, err, &yield)
	require.Equal(t, jobs.YieldQueueFull, yield.Reason)
	require.False(t, yield.Resumes())
	require.Positive(t, yield.After)
	require.Len(t, l.made(), 2)
}

func TestAbandonedSweepMakesDeletes(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`INSERT INTO rooms (room_id) VALUES ('!gone:x')`)
	l.Exec(`
		INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender, received_ts)
		VALUES ('$left', '!gone:x', 'm.room.member', 1, 1, 1, true, false, '@u:x', extract(epoch FROM now())::numeric * 1000 - $1::bigint)`, 40*day)
	l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ('!gone:x', '@u:x', '$left', 'leave')`)
	options := Options{Retention: retention.Config{Abandoned: retention.Abandoned{Enabled: true, After: 30 * day, CoolOff: day, MaxPerRun: 9}}}
	sweeper := l.sweeper(options)
	for _, want := range []string{"cooling_off", "enqueued"} {
		job, run := l.accept(jobs.AbandonedSweep, retention.SweepParameters{Job: retention.AbandonedJob})
		sweep, err := sweeper.Abandoned(l.Ctx, job, run)
		require.NoError(t, err)
		_, err = sweep.Next(l.Ctx)
		require.NoError(t, err)
		require.Equal(t, 1, count(t, l.metrics.AbandonedRooms.WithLabelValues(want)), want)
		if want == "enqueued" {
			made := l.made()
			require.Len(t, made, 1)
			require.Equal(t, jobs.DeleteRoom, made[0].Kind)
			require.JSONEq(t, fmt.Sprintf(`{"delete": {"Sweep": %q}}`, job.ID), string(made[0].Parameters))
		}
		l.Exec(`UPDATE lethe.abandoned_rooms SET seen_at = seen_at - interval '1 day'`)
		require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""))
	}
	rule, _, err := sweeper.AbandonedRule(l.Ctx)
	require.NoError(t, err)
	require.NoError(t, expiry.GuardAbandoned(l.Ctx, l.DB, "!gone:x", rule), "the delete checks the room by the same rule")
}

func TestSweepWithoutSettingsIsLeft(t *testing.T) {
	t.Parallel()
	l := setup(t)
	off := l.sweeper(Options{})
	_, err := off.Retention(l.Ctx, journal.Job{Parameters: []byte(`{"job": "all"}`)}, journal.Run{})
	require.ErrorIs(t, err, errRetentionOff)
	_, err = off.Abandoned(l.Ctx, journal.Job{}, journal.Run{})
	require.ErrorIs(t, err, errAbandonedOff)
	_, _, err = off.AbandonedRule(l.Ctx)
	require.ErrorIs(t, err, expiry.ErrNotAbandoned)

	on := l.sweeper(Options{Retention: keeping(day)})
	_, err = on.Retention(l.Ctx, journal.Job{Parameters: []byte(`{"job": "gone"}`)}, journal.Run{})
	require.ErrorIs(t, err, errNoSuchJob)
	for _, parameters := range []string{`{"tick": "noon"}`, `{"job": 7}`, `[]`, ``} {
		_, err = on.Retention(l.Ctx, journal.Job{Parameters: []byte(parameters)}, journal.Run{})
		require.ErrorContains(t, err, "decode the job's parameters", parameters)
	}
	_, err = on.Retention(l.Ctx, journal.Job{Parameters: []byte(`{"job": "all"}`), Checkpoint: []byte(`{"after": 7}`)}, journal.Run{})
	require.ErrorContains(t, err, "decode the job's checkpoint")
}

// TestOutcomesAreTheRegistrys holds what sweeps count against the registry.
func TestOutcomesAreTheRegistrys(t *testing.T) {
	t.Parallel()
	for _, d := range jobs.Registry() {
		switch d.Kind {
		case jobs.RetentionSweep:
			require.ElementsMatch(t, d.Sweep, slices.Collect(maps.Keys(new(Result).outcomes())))
		case jobs.AbandonedSweep:
			require.ElementsMatch(t, d.Sweep, slices.Collect(maps.Keys(abandonedOutcomes(new(Result)))))
		}
	}
}

func TestPageCountsEachRoomOnce(t *testing.T) {
	t.Parallel()
	skip := func(r *Result) { r.Skipped.NoLimit++ }
	page := verdicts{{room: "!skipped", skip: skip}, {room: "!unread", err: errors.New("broken")}}
	for _, id := range []string{"accepted", "refused", "purging", "deleting"} {
		job := &journal.Job{ID: id, Kind: jobs.PurgeHistory}
		if id == "deleting" {
			job.Kind = jobs.DeleteRoom
		}
		page = append(page, verdict{room: "!" + id, job: job})
	}
	var got Result
	page.count(&got, journal.SweptJobs{Accepted: []string{"accepted"}, Refused: map[string]error{"refused": errors.New("made to fail")}})
	want := Result{Rooms: 6, Enqueued: 1, Failures: []Failure{{"!unread", "broken"}, {"!refused", "made to fail"}}}
	want.Skipped.NoLimit, want.Skipped.Purging, want.Skipped.Deleting, want.Skipped.Failed = 1, 1, 1, 2
	require.Equal(t, want, got)
	require.True(t, strings.HasPrefix(got.String(), `{"rooms":6,"enqueued":1,`), got.String())

	for jobs, rooms := range map[int]int{1: 3, 2: 4, 4: 6, 9: 6} {
		require.Len(t, page.upTo(jobs), rooms, jobs)
	}
	require.Len(t, page.jobs(), 4)
	for range 2 * maxNamedFailures {
		got.fail("!more", errors.New("why"))
	}
	require.Len(t, got.Failures, maxNamedFailures)
	require.EqualValues(t, 2+2*maxNamedFailures, got.Skipped.Failed)
}
