package tasks

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
	"lethe/internal/sweep"
)

// day and hour are lifetimes, in ms.
const (
	hour = int64(time.Hour / time.Millisecond)
	day  = 24 * hour
)

// An aged event arrived so many ms ago.
type aged struct {
	room   string
	depth  int64
	age    int64
	state  bool
	sender string
}

// arrive lets the events arrive, the oldest first, and makes the rooms that they
// are in. The last of a room is its extremity. Elsewhere something arrives a minute
// before each full day: so the first event that has not expired is of no room that
// is looked at, and each room keeps the newest that has.
func (l *lab) arrive(events ...aged) {
	l.T.Helper()
	const elsewhere = "!elsewhere:far"
	for n := range int64(100) {
		events = append(events, aged{room: elsewhere, depth: 100 - n, age: n*day + time.Minute.Milliseconds()})
	}
	slices.SortStableFunc(events, func(a, b aged) int { return cmp.Compare(b.age, a.age) })
	batch := &pgx.Batch{}
	last := map[string]string{}
	for i, e := range events {
		id := fmt.Sprintf("$%d-%d%s", i, e.depth, e.room)
		if last[e.room] == "" {
			batch.Queue(`INSERT INTO rooms (room_id) VALUES ($1) ON CONFLICT DO NOTHING`, e.room)
			batch.Queue(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 'm.room.create', '')`,
				"$create"+e.room, e.room)
		}
		last[e.room] = id
		batch.Queue(`
			INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender, received_ts)
			SELECT $1, $2, 't', $3, $3, coalesce(max(stream_ordering), 0) + 1, true, false, $4,
			       extract(epoch FROM now())::numeric * 1000 - $5::bigint
			FROM events`, id, e.room, e.depth, cmp.Or(e.sender, "@zoe:far"), e.age)
		if e.state {
			batch.Queue(`INSERT INTO state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 't', $1)`, id, e.room)
		}
	}
	batch.Queue(`DELETE FROM current_state_events WHERE room_id = $1`, elsewhere)
	for room, id := range last {
		batch.Queue(`INSERT INTO event_forward_extremities (event_id, room_id) VALUES ($1, $2)`, id, room)
	}
	require.NoError(l.T, l.Conn.SendBatch(l.Ctx, batch).Close())
}

// steps are events of a room, each a level above the one before, of the given ages
// in days.
func steps(room string, days ...int64) []aged {
	var events []aged
	for i, age := range days {
		events = append(events, aged{room: room, depth: int64(i + 1), age: age * day})
	}
	return events
}

// policy makes the lifetimes the room's policy: "null" leaves one open.
func (l *lab) policy(room string, minimum, maximum any) {
	l.T.Helper()
	l.Exec(`
		INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ('$policy' || $1, $1, 'm.room.retention', '')
		ON CONFLICT DO NOTHING`, room)
	l.Exec(`
		INSERT INTO room_retention (room_id, event_id, min_lifetime, max_lifetime) VALUES ($1, '$policy' || $1, $2::bigint, $3::bigint)
		ON CONFLICT (room_id, event_id) DO UPDATE SET min_lifetime = excluded.min_lifetime, max_lifetime = excluded.max_lifetime`,
		room, minimum, maximum)
}

// keeping are rules with one job for all, and that default lifetime, 0 for none.
func keeping(lifetime int64) retention.Config {
	rules := retention.Config{Enabled: true, Jobs: []retention.Job{{Name: "all"}}}
	if lifetime > 0 {
		rules.DefaultPolicy.MaxLifetime = &lifetime
	}
	return rules
}

// sweep accepts a sweep for the job, as the scheduler does.
func (l *lab) sweep(job string) string {
	l.T.Helper()
	id, err := l.client.SubmitRetentionSweep(l.Ctx, RetentionSweep{Job: job, Tick: time.Now().Add(-24 * time.Hour)})
	require.NoError(l.T, err)
	return id
}

// swept waits until the sweep has ended, and all jobs that it made.
func (l *lab) swept(id string) sweepResult {
	l.T.Helper()
	l.awaits(id, func() (bool, error) {
		if !l.Job(id).State.Ended() {
			return false, nil // and may accept jobs
		}
		open, err := l.Journal.OpenLowJobs(l.Ctx)
		return err == nil && open == 0, err
	})
	require.Equal(l.T, journal.Complete, l.Job(id).State, l.Job(id).Error)
	return l.sweptSoFar(id)
}

func (l *lab) sweptSoFar(id string) sweepResult {
	l.T.Helper()
	var at sweep.Checkpoint
	if checkpoint := l.Job(id).Checkpoint; checkpoint != nil {
		require.NoError(l.T, json.Unmarshal(checkpoint, &at))
	}
	return at.Sweep
}

// purged are the rooms that have had a purge, in the order of their ids, once for
// each.
func (l *lab) purged() []string {
	l.T.Helper()
	return storetest.All[string](l.Lab, `SELECT room_id FROM lethe.jobs WHERE kind = 'purge_history' ORDER BY room_id`)
}

// sweepResult counts the rooms of a sweep. The tests call sweeps "sweep".
type sweepResult = sweep.Result

// An ownSweep is the work of a sweep that was accepted, in our own hands.
type ownSweep struct {
	work
	run journal.Run
}

func (s ownSweep) result() sweepResult { return s.progress().(sweep.Checkpoint).Sweep }

func (l *lab) newSweep(w *Worker, id string) ownSweep {
	l.T.Helper()
	l.Exec(`UPDATE lethe.jobs SET state = 'queued', heartbeat_at = NULL WHERE id = $1`, id)
	run := l.claim(id)
	sweep, err := w.newRetentionSweep(l.Ctx, l.Job(id), run)
	require.NoError(l.T, err)
	return ownSweep{sweep, run}
}

func TestSweepPurgesWhatHasExpired(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.arrive(slices.Concat(
		steps("!default:x", 9, 8, 7, 1, 0),
		steps("!kept:x", 2, 1, 0),
		steps("!long:x", 90, 80, 9, 1, 0),
		steps("!short:x", 9, 1, 0, 0),
		steps("!silent:x", 90, 80, 70),
		[]aged{
			{room: "!state:x", depth: 1, age: 9 * day, state: true},
			{room: "!state:x", depth: 2, age: 8 * day, sender: "@local:x"},
			{room: "!state:x", depth: 3, age: 8 * day, state: true},
			{room: "!state:x", depth: 4, age: 7 * day},
			{room: "!state:x", depth: 5},
		},
	)...)
	l.policy("!long:x", nil, 30*day)
	l.policy("!short:x", nil, 12*hour)
	l.policy("!kept:x", nil, nil)
	l.work(WorkerOptions{Retention: keeping(5 * day), SweepRooms: 2})
	id := l.sweep("all")
	got := l.swept(id)
	want := sweepResult{Rooms: 6, Enqueued: 5}
	want.Skipped.NothingExpired = 1
	require.Equal(t, want, got)

	// The newest of what has expired survives, as does the last event there is.
	require.Equal(t, []int64{3, 4, 5}, l.depths("!default:x"))
	require.Equal(t, []int64{1, 2, 3}, l.depths("!kept:x"))
	require.Equal(t, []int64{2, 3, 4, 5}, l.depths("!long:x"))
	require.Equal(t, []int64{2, 3, 4}, l.depths("!short:x"))
	require.Equal(t, []int64{3}, l.depths("!silent:x"))
	require.Equal(t, []int64{1, 3, 4, 5}, l.depths("!state:x"), "the state stays, and local events go too")

	purges := storetest.All[string](l.Lab, `
		SELECT concat_ws(' ', requester, queue, state, parameters ->> 'retention_job', parameters ->> 'delete_local_events')
		FROM lethe.jobs WHERE kind = 'purge_history'`)
	require.Equal(t, slices.Repeat([]string{"retention low complete all true"}, 5), purges)
	require.Equal(t, []string{"!default:x 2", "!long:x 1", "!short:x 1", "!silent:x 2", "!state:x 3"}, storetest.All[string](l.Lab, `
		SELECT room_id || ' ' || total FROM lethe.jobs WHERE kind = 'purge_history' ORDER BY room_id`), "their progress has an end")
	status, err := l.board.Status(l.Ctx, jobs.RetentionSweep, id)
	require.NoError(t, err)
	require.Equal(t, journal.Complete, status.State)
	require.Contains(t, status.Progress, `"enqueued": 5`)

	again := l.swept(l.sweep("all"))
	require.Zero(t, again.Enqueued, "nothing is left")
	require.EqualValues(t, 6, again.Skipped.NothingExpired)
}

// The bounds of a job, and R1: no room is purged by another's lifetime.
func TestSweepsCoverEachRoomByOneJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	lifetimes := map[string]any{"!a": hour, "!b": hour + 1, "!c": day, "!d": day + 1, "!e": nil, "!f": 0, "!g": -5}
	var events []aged
	for room := range lifetimes {
		events = append(events, steps(room, 9, 8, 7, 0)...)
	}
	l.arrive(append(events, steps("!h", 9, 8, 7, 0)...)...)
	for room, maximum := range lifetimes {
		l.policy(room, nil, maximum)
	}
	bound := func(ms int64) *int64 { return &ms }
	rules := keeping(8*day - hour)
	rules.AllowedLifetimeMin = bound(hour / 2)
	rules.Jobs = []retention.Job{
		{Name: "short", LongestMaxLifetime: bound(hour)},
		{Name: "middle", ShortestMaxLifetime: bound(hour), LongestMaxLifetime: bound(day)},
		{Name: "long", ShortestMaxLifetime: bound(day), LongestMaxLifetime: bound(8*day - hour)},
		{Name: "longer", ShortestMaxLifetime: bound(8*day - hour)},
	}
	l.work(WorkerOptions{Retention: rules})
	for job, want := range map[string][]string{
		"short": {"!a", "!f", "!g"}, "middle": {"!b", "!c"}, "long": {"!d", "!e", "!h"}, "longer": {},
	} {
		before := l.purged()
		result := l.swept(l.sweep(job))
		require.EqualValues(t, len(want), result.Enqueued, job)
		require.EqualValues(t, 8-len(want), result.Skipped.OtherJob, job)
		got := l.purged()
		for _, room := range before {
			i := slices.Index(got, room)
			got = slices.Delete(got, i, i+1)
		}
		require.Equal(t, want, got, job)
	}
	for room := range lifetimes {
		if room != "!e" {
			require.Equal(t, []int64{3, 4}, l.depths(room), room)
		}
	}
	for _, room := range []string{"!e", "!h"} {
		require.Equal(t, []int64{2, 3, 4}, l.depths(room), "8 days are less than the default, so the second is the newest expired")
	}
}

// R2 and more: what is to be left, and why.
func TestSweepSaysWhyItSkips(t *testing.T) {
	t.Parallel()
	l := setup(t)
	names := []string{"!default", "!deleting", "!empty", "!expired", "!minimum", "!purging"}
	var events []aged
	for _, room := range names[:1] {
		events = append(events, steps(room, 9, 8, 7)...)
	}
	for _, room := range names[1:] {
		events = append(events, steps(room, 9, 8, 7)...)
	}
	l.arrive(append(events, steps("!young", 0, 0)...)...)
	for _, room := range []string{"!deleting", "!expired", "!purging", "!young"} {
		l.policy(room, nil, day)
	}
	l.policy("!minimum", day, nil)
	l.delete("!deleting", nil)
	l.submit("!purging", 2)
	var logged written
	l.log = slog.New(slog.NewJSONHandler(&logged, nil))
	w := l.worker(WorkerOptions{Retention: keeping(0)})
	sweep := l.newSweep(w, l.sweep("all"))
	for done := false; !done; {
		var err error
		done, err = sweep.next(l.Ctx)
		require.NoError(t, err)
	}
	want := sweepResult{Rooms: 7, Enqueued: 1}
	want.Skipped.NoLimit = 3
	want.Skipped.Deleting, want.Skipped.Purging, want.Skipped.NothingExpired = 1, 1, 1
	require.Equal(t, want, sweep.result())
	require.Equal(t, want, l.sweptSoFar(sweep.run.JobID))
	require.NoError(t, l.Journal.EndJob(l.Ctx, sweep.run, journal.Complete, ""))
	low := storetest.All[string](l.Lab, `SELECT room_id FROM lethe.jobs WHERE queue = 'low'`)
	require.Equal(t, []string{"!expired"}, low)
	reasons := map[any]any{}
	for _, line := range logged.lines(t) {
		if message := fmt.Sprint(line["msg"]); strings.HasPrefix(message, "room not purged: ") {
			reasons[line["room"]] = message
		}
	}
	// The words in which Synapse says so.
	first := storetest.One[int64](l.Lab, `
		SELECT min(stream_ordering) FROM events WHERE received_ts >= (SELECT max(received_ts) FROM events) - $1::bigint`, day-hour)
	require.Len(t, reasons, 3)
	require.Contains(t, reasons["!deleting"], "its delete is in progress")
	require.Contains(t, reasons["!purging"], "ongoing purge")
	require.Regexp(t, fmt.Sprintf(`No event found \(ts \d{13} => stream_ordering %d\)$`, first), reasons["!young"])

	// And once more while its purge is open.
	sweep = l.newSweep(w, l.sweep("all"))
	_, err := sweep.next(l.Ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, sweep.result().Skipped.Purging)
	require.Zero(t, sweep.result().Enqueued)
}

func TestSweepOfAJobThatIsGone(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.arrive(steps(room, 9, 8, 7)...)
	off := keeping(day)
	off.Enabled = false
	for want, w := range map[string]*Worker{
		`retention job "gone": no job of that name is configured: the sweep was left`: l.worker(WorkerOptions{Retention: keeping(day)}),
		"retention is not enabled: the sweep was left":                                l.worker(WorkerOptions{Retention: off}),
	} {
		job := l.Job(l.sweep("gone"))
		run := l.claim(job.ID)
		last, err := w.runSlice(l.Ctx, job, run, l.log)
		require.EqualError(t, err, want)
		require.NoError(t, w.settle(l.Ctx, job, run, last, err, l.log))
		require.Equal(t, want, l.Job(job.ID).Error)
	}
	for _, parameters := range []string{`{"tick": "noon"}`, `{"job": 7}`, `[]`} {
		_, err := l.worker(WorkerOptions{Retention: keeping(day)}).newRetentionSweep(l.Ctx, journal.Job{Parameters: []byte(parameters)}, journal.Run{})
		require.ErrorContains(t, err, "decode the job's parameters")
	}
	require.Empty(t, l.purged())
}

// A room for which the database returns only errors keeps no other room from being
// purged, wherever it is in a page.
func TestBadRoomIsIsolated(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var events []aged
	for i := range 9 {
		events = append(events, steps(fmt.Sprint("!", i), 9, 8, 7)...)
	}
	l.arrive(events...)
	// One whose purge is refused, and two whose events cannot be read.
	l.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.room_id = '!3' AND NEW.kind = 'purge_history' THEN RAISE 'made to fail'; END IF;
		RETURN NEW;
	END $$`)
	l.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON lethe.jobs FOR EACH ROW EXECUTE FUNCTION refuse()`)
	// As each event is looked for, and not before.
	l.Exec(`DO $$ DECLARE way text; BEGIN
		FOREACH way IN ARRAY ARRAY['hashjoin', 'mergejoin', 'bitmapscan', 'seqscan', 'material'] LOOP
			EXECUTE format('ALTER DATABASE %I SET enable_%s = off', current_database(), way);
		END LOOP;
	END $$`)
	// Before the table is replaced: a new sweep would refuse what replaces it.
	sweep := l.newSweep(l.worker(WorkerOptions{Retention: keeping(day), SweepRooms: 4}), l.sweep("all"))
	l.Exec(`CREATE SCHEMA aside; ALTER TABLE rejections SET SCHEMA aside`)
	l.Exec(`CREATE FUNCTION corrupted(event text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
		RAISE 'page is broken' USING ERRCODE = 'data_corrupted';
	END $$`)
	l.Exec(`CREATE VIEW rejections AS SELECT event_id FROM events WHERE room_id || '' IN ('!0', '!5') AND corrupted(event_id)`) // by no index of rooms
	for done := false; !done; {
		var err error
		done, err = sweep.next(l.Ctx)
		require.NoError(t, err)
	}
	result := l.sweptSoFar(sweep.run.JobID)
	require.EqualValues(t, 9, result.Rooms)
	require.EqualValues(t, 6, result.Enqueued, result.Failures)
	require.EqualValues(t, 3, result.Skipped.Failed)
	var failed []string
	for _, failure := range result.Failures {
		failed = append(failed, failure.Room)
		require.Regexp(t, "made to fail|page is broken", failure.Error)
	}
	require.Equal(t, []string{"!0", "!3", "!5"}, failed)
	require.Equal(t, []string{"!1", "!2", "!4", "!6", "!7", "!8"}, l.purged())

	// An error that is about no room ends the sweep, and says why.
	l.Exec(`DROP VIEW rejections; ALTER TABLE aside.rejections SET SCHEMA public`)
	require.NoError(t, l.Journal.EndJob(l.Ctx, sweep.run, journal.Complete, ""))
	l.Exec(`UPDATE lethe.jobs SET state = 'complete', ended_at = now() WHERE queue = 'low'`)
	sweep = l.newSweep(l.worker(WorkerOptions{Retention: keeping(day)}), l.sweep("all"))
	l.Exec(`DROP TABLE rejections`)
	_, err := sweep.next(l.Ctx)
	require.ErrorContains(t, err, "rejections")
	require.False(t, postgres.IsRowError(err))
}

// A sweep may be called again from any of its checkpoints, and by two at once:
// each room gets one purge.
func TestSweepGoesOnFromAnyCheckpoint(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var events []aged
	var names []string
	for i := range 17 {
		names = append(names, fmt.Sprintf("!%02d", i))
		events = append(events, steps(names[i], 9, 8, 7)...)
	}
	l.arrive(events...)
	w := l.worker(WorkerOptions{Retention: keeping(day), SweepRooms: 3})
	id := l.sweep("all")
	for i := range 20 {
		// The one before is still at work when another takes over.
		old := l.newSweep(w, id)
		sweep := l.newSweep(w, id)
		var group sync.WaitGroup
		var errs [2]error
		var done bool
		group.Go(func() { _, errs[0] = old.next(l.Ctx) })
		group.Go(func() { done, errs[1] = sweep.next(l.Ctx) })
		group.Wait()
		require.NoError(t, errs[1])
		if done {
			require.Equal(t, 6, i)
			break
		}
		require.ErrorIs(t, errs[0], journal.ErrSuperseded)
	}
	result := l.sweptSoFar(id)
	require.EqualValues(t, 17, result.Rooms)
	require.EqualValues(t, 17, result.Enqueued)
	require.Equal(t, names, l.purged())

	// From the beginning it finds them all done.
	l.Exec(`UPDATE lethe.jobs SET checkpoint = NULL WHERE id = $1`, id)
	sweep := l.newSweep(w, id)
	for done := false; !done; {
		var err error
		done, err = sweep.next(l.Ctx)
		require.NoError(t, err)
	}
	require.EqualValues(t, 17, sweep.result().Skipped.Purging)
	require.Equal(t, names, l.purged())
}

// Two deliveries of one task run a sweep once, and sweeps of two jobs take turns.
func TestSweepsTakeTurns(t *testing.T) {
	t.Parallel()
	l := setup(t)
	one, other := l.sweep("all"), l.sweep("other")
	l.claim(one)
	_, err := l.Journal.ClaimJob(l.Ctx, one, 1, jobs.HeartbeatStale, 0)
	require.ErrorIs(t, err, journal.ErrSuperseded)
	_, err = l.Journal.ClaimJob(l.Ctx, other, 1, jobs.HeartbeatStale, 0)
	require.ErrorIs(t, err, journal.ErrRoomBusy)
}

// If a job was not enqueued, because Redis was down or the worker died, the
// reconciler enqueues it at its next check, in the low queue.
func TestSweptJobsAreEnqueuedByTheReconciler(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.arrive(slices.Concat(steps("!a", 9, 8, 7), steps("!b", 9, 8, 7))...)
	sweep := l.newSweep(l.worker(WorkerOptions{Retention: keeping(day)}), l.sweep("all"))
	l.server.Kill()
	_, err := sweep.next(l.Ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, sweep.result().Enqueued)
	require.NoError(t, l.server.Restart(l.Ctx))
	require.NoError(t, l.reconciler().Check(l.Ctx))
	var ids []string
	tasks, err := l.asynq.ListPendingTasks(string(jobs.Low))
	require.NoError(t, err)
	for _, task := range tasks {
		ids = append(ids, task.ID)
	}
	require.ElementsMatch(t, storetest.All[string](l.Lab, `SELECT id || '~1' FROM lethe.jobs WHERE queue = 'low'`), ids)
	require.Len(t, ids, 2)
	// And it finds them there.
	require.NoError(t, l.reconciler().Check(l.Ctx))
	require.Zero(t, storetest.All[int](l.Lab, `SELECT count(*) FROM lethe.jobs WHERE queue = 'low' AND task_missing_since IS NOT NULL`)[0])
}

// Between sweep and purge a policy may change to keep more, and the purge keeps
// that.
func TestPurgeKeepsWhatNoLongerExpires(t *testing.T) {
	t.Parallel()
	l := setup(t)
	rooms := []string{"!cancelled", "!lengthened", "!longer", "!shortened", "!same"}
	var events []aged
	for _, room := range rooms {
		events = append(events, steps(room, 9, 8, 7, 6, 2, 0)...)
	}
	l.arrive(events...)
	for _, room := range rooms {
		l.policy(room, nil, 5*day)
	}
	rules := keeping(0)
	sweep := l.newSweep(l.worker(WorkerOptions{Retention: rules}), l.sweep("all"))
	for done := false; !done; {
		var err error
		done, err = sweep.next(l.Ctx)
		require.NoError(t, err)
	}
	require.EqualValues(t, 5, sweep.result().Enqueued)
	decided := storetest.All[float64](l.Lab, `
		SELECT (extract(epoch FROM now()) * 1000 - (parameters->>'expired_before')::bigint)::float FROM lethe.jobs WHERE queue = 'low'`)
	require.Len(t, decided, 5)
	require.InDeltaSlice(t, slices.Repeat([]float64{float64(5 * day)}, 5), decided, float64(2*time.Minute.Milliseconds()))
	l.Exec(`DELETE FROM current_state_events WHERE event_id = '$policy!cancelled'`)
	l.policy("!lengthened", nil, 30*day)
	l.policy("!longer", nil, 7*day+hour)
	// As an older version made them.
	l.Exec(`UPDATE lethe.jobs SET parameters = parameters - 'expired_before' WHERE room_id IN ('!longer', '!shortened')`)
	l.policy("!shortened", nil, hour)
	l.work(WorkerOptions{Retention: rules})
	ends := func() map[string]jobs.Status {
		statuses := map[string]jobs.Status{}
		for _, id := range storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs WHERE queue = 'low'`) {
			status := l.ends(id)
			require.Equal(t, journal.Complete, status.State, status.Error)
			statuses[status.Room] = status
		}
		return statuses
	}
	statuses := ends()
	whole := []int64{1, 2, 3, 4, 5, 6}
	require.Equal(t, whole, l.depths("!cancelled"))
	require.Equal(t, whole, l.depths("!lengthened"))
	require.Equal(t, whole[1:], l.depths("!longer"))
	require.Equal(t, whole[3:], l.depths("!shortened"), "no more than the sweep has decided")
	require.Equal(t, whole[3:], l.depths("!same"))
	var at purgeHistoryCheckpoint
	require.NoError(t, json.Unmarshal([]byte(cmp.Or(statuses["!lengthened"].Progress, "{}")), &at))
	require.Zero(t, at.Batches)
}

// Turning retention off in an emergency stops the waiting purges.
func TestPurgesOfRetentionThatIsOff(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.arrive(steps(room, 9, 8, 7)...)
	rules := keeping(day)
	sweep := l.newSweep(l.worker(WorkerOptions{Retention: rules}), l.sweep("all"))
	_, err := sweep.next(l.Ctx)
	require.NoError(t, err)
	asked := l.submit("!other:x", 1)
	rules.Enabled = false
	l.work(WorkerOptions{Retention: rules})
	status := l.ends(storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs WHERE queue = 'low'`)[0])
	require.Equal(t, journal.Complete, status.State)
	require.Equal(t, []int64{1, 2, 3}, l.depths(room))
	require.Equal(t, journal.Complete, l.ends(asked).State, "others are none of its business")
}

// A purge that was interrupted checks the policy again, and finishes what it has
// begun.
func TestPurgeIsJudgedAgainInEachSlice(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.arrive(steps(room, 9, 8, 7, 6, 5, 4, 0)...)
	w := l.worker(WorkerOptions{Retention: keeping(day), BatchEvents: 1})
	sweep := l.newSweep(w, l.sweep("all"))
	_, err := sweep.next(l.Ctx)
	require.NoError(t, err)
	id := storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs WHERE queue = 'low'`)[0]
	run := l.claim(id)
	purge, err := w.newPurgeHistory(l.Ctx, l.Job(id), run)
	require.NoError(t, err)
	for range 2 {
		_, err = purge.next(l.Ctx)
		require.NoError(t, err)
	}
	require.Equal(t, []int64{3, 4, 5, 6, 7}, l.depths(room))
	l.policy(room, nil, 6*day-hour)
	purge, err = w.newPurgeHistory(l.Ctx, l.Job(id), run)
	require.NoError(t, err)
	for done := false; !done; {
		done, err = purge.next(l.Ctx)
		require.NoError(t, err)
	}
	require.Equal(t, []int64{4, 5, 6, 7}, l.depths(room))
	require.EqualValues(t, 3, purge.(*purgeHistory).at.EventsDeleted)

	l.policy(room, nil, 90*day)
	purge, err = w.newPurgeHistory(l.Ctx, l.Job(id), run)
	require.NoError(t, err)
	for done := false; !done; {
		done, err = purge.next(l.Ctx)
		require.NoError(t, err)
	}
	require.Equal(t, []int64{4, 5, 6, 7}, l.depths(room))
}

// On the rooms of a real Synapse, a sweep purges exactly what a plain statement
// selects.
func TestSweepOfTheCorpus(t *testing.T) {
	t.Parallel()
	l := setupOn(t, func(t *testing.T) string {
		url := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump"))
		require.NoError(t, migrate.Up(t.Context(), url))
		return url
	})
	// The corpus was made in a minute: one second of it is to be a day, of which the
	// last is half a day ago. So no lifetime ends while the test runs.
	l.Exec(`
		UPDATE events e SET received_ts = extract(epoch FROM now())::numeric * 1000 - $1::bigint * (0.5 + (last - received_ts) / 1000)
		FROM (SELECT max(received_ts) AS last FROM events) n`, day)
	rules := keeping(20 * day)
	rules.AllowedLifetimeMin = new(2 * day)
	rules.AllowedLifetimeMax = new(40 * day)
	gone := func() map[string][]string {
		// For each room the token is the last event of the room up to the first event
		// of all that has not expired, by the stream.
		rows, err := l.Conn.Query(l.Ctx, `
			WITH lifetimes AS (
				SELECT room_id, least(greatest(coalesce(max_lifetime, $1), $2), $3) AS lifetime
				FROM (SELECT DISTINCT room_id FROM current_state_events) r
				LEFT JOIN (room_retention JOIN current_state_events c USING (room_id, event_id)) USING (room_id)
				WHERE c.type IS NULL OR c.type = 'm.room.retention' AND c.state_key = ''
			), tokens AS (
				SELECT room_id, (
					SELECT topological_ordering FROM events e
					WHERE e.room_id = l.room_id AND NOT outlier AND rejection_reason IS NULL
					  AND event_id NOT IN (SELECT event_id FROM rejections)
					  AND stream_ordering <= coalesce((
						SELECT min(stream_ordering) FROM events
						WHERE stream_ordering >= 0 AND received_ts >= extract(epoch FROM now())::numeric * 1000 - lifetime), 1e18)
					ORDER BY stream_ordering DESC LIMIT 1) AS before
				FROM lifetimes l
			)
			SELECT room_id, event_id FROM events JOIN tokens USING (room_id)
			WHERE topological_ordering < before AND event_id NOT IN (SELECT event_id FROM state_events)
			ORDER BY event_id`, *rules.DefaultPolicy.MaxLifetime, *rules.AllowedLifetimeMin, *rules.AllowedLifetimeMax)
		require.NoError(t, err)
		events := map[string][]string{}
		var room, event string
		_, err = pgx.ForEachRow(rows, []any{&room, &event}, func() error {
			events[room] = append(events[room], event)
			return nil
		})
		require.NoError(t, err)
		return events
	}
	want := gone()
	require.Greater(t, len(want), 5, "else it shows nothing")
	before := storetest.All[string](l.Lab, `SELECT event_id FROM events ORDER BY 1`)
	l.work(WorkerOptions{Retention: rules, SweepRooms: 3, BatchEvents: 20})
	result := l.swept(l.sweep("all"))
	require.Equal(t, slices.Sorted(maps.Keys(want)), l.purged())
	require.EqualValues(t, len(want), result.Enqueued)
	failed := storetest.All[string](l.Lab, `SELECT error FROM lethe.jobs WHERE state <> 'complete'`)
	require.Empty(t, failed)

	after := storetest.All[string](l.Lab, `SELECT event_id FROM events ORDER BY 1`)
	var went []string
	for _, event := range before {
		if _, found := slices.BinarySearch(after, event); !found {
			went = append(went, event)
		}
	}
	var expected []string
	for _, events := range want {
		expected = append(expected, events...)
	}
	slices.Sort(expected)
	slices.Sort(went)
	require.Equal(t, expected, went)
}

// The number of open jobs stays within its limit, however sweep and purges proceed.
func TestSweepWaitsForItsPurges(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var events []aged
	for i := range 20 {
		events = append(events, steps(fmt.Sprintf("!%02d", i), 9, 8, 7)...)
	}
	l.arrive(events...)
	w := l.worker(WorkerOptions{Retention: keeping(day), SweepRooms: 4, MaxQueued: 6})
	id := l.sweep("all")
	end := func(n int) {
		l.Exec(`
			UPDATE lethe.jobs SET state = 'complete', ended_at = now()
			WHERE id IN (SELECT id FROM lethe.jobs WHERE queue = 'low' AND ended_at IS NULL ORDER BY room_id LIMIT $1)`, n)
	}
	var yield jobs.YieldError
	sweep := l.newSweep(w, id)
	for _, want := range []int{4, 6} {
		_, err := sweep.next(l.Ctx)
		require.NoError(t, err)
		require.EqualValues(t, want, sweep.result().Enqueued)
	}
	_, err := sweep.next(l.Ctx)
	require.ErrorAs(t, err, &yield)
	require.Equal(t, jobs.YieldQueueFull, yield.Reason)
	require.Positive(t, yield.After)
	end(1)
	_, err = sweep.next(l.Ctx)
	require.NoError(t, err)
	require.EqualValues(t, 7, sweep.result().Enqueued)
	require.EqualValues(t, 7, l.sweptSoFar(id).Rooms, "those that are enqueued, and no more")

	// One that was stopped looks, and then others make purges.
	end(3)
	free, err := l.Journal.OpenLowJobs(l.Ctx)
	require.NoError(t, err)
	require.Equal(t, 3, free)
	many := make([]journal.Job, 4)
	for i := range many {
		many[i] = journal.Job{ID: jobs.NewID(), Kind: "purge_history", Room: fmt.Sprint("!x", i), Parameters: []byte("{}"), Queue: jobs.Low}
	}
	b := l.Journal.BeginSweep(sweep.run, lockLease)
	_, err = journal.InsertSwept(l.Ctx, b, many, 6)
	b.Rollback(l.Ctx)
	require.ErrorIs(t, err, journal.ErrLowQueue)
	require.EqualValues(t, 7, l.sweptSoFar(id).Rooms)

	for i := 0; ; i++ {
		require.Less(t, i, 40)
		done, err := l.newSweep(w, id).next(l.Ctx)
		if done {
			break
		}
		open, countErr := l.Journal.OpenLowJobs(l.Ctx)
		require.NoError(t, countErr)
		require.LessOrEqual(t, open, 6)
		if err != nil {
			require.ErrorAs(t, err, &yield)
			end(2)
		}
	}
	require.EqualValues(t, 20, l.sweptSoFar(id).Enqueued)
	require.Zero(t, l.Job(id).Failures)
	require.Len(t, l.purged(), 20)
	require.Len(t, slices.Compact(l.purged()), 20)
}

// All workers together run no more of them at a time than allowed.
func TestFewPurgesOfSweepsRunAtATime(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var events []aged
	for i := range 24 {
		events = append(events, steps(fmt.Sprint("!", i), 9, 8, 7, 6, 5, 4, 3)...)
	}
	l.arrive(events...)
	// Each run notes at its beginning how many run then. It sees those that have committed, so
	// it is told of no more than there were.
	l.Exec(`CREATE TABLE seen (running bigint)`)
	l.Exec(`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO public.seen SELECT count(*) FROM lethe.jobs WHERE queue = 'low' AND state = 'running';
		RETURN NULL;
	END $$`)
	l.Exec(`CREATE TRIGGER note AFTER UPDATE ON lethe.jobs FOR EACH ROW WHEN (NEW.queue = 'low' AND NEW.state = 'running') EXECUTE FUNCTION note()`)
	for range 2 {
		l.work(WorkerOptions{Retention: keeping(day), Concurrency: 6, MaxRunning: 3, BatchEvents: 1})
	}
	result := l.swept(l.sweep("all"))
	require.EqualValues(t, 24, result.Enqueued)
	require.EqualValues(t, 3, storetest.All[int64](l.Lab, `SELECT max(running) FROM seen`)[0], "and all places are used")
}

func TestClaimsOfTheLowQueueAreBounded(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var rows []journal.Job
	for i := range 3 {
		rows = append(rows, journal.Job{ID: jobs.NewID(), Kind: "purge_history", Room: fmt.Sprint("!", i), Parameters: []byte("{}"), Queue: jobs.Low})
	}
	accepted, err := l.Journal.InsertJobs(l.Ctx, rows)
	require.NoError(t, err)
	require.Len(t, accepted, 3)
	claim := func(id string) error {
		_, err := l.Journal.ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 2)
		return err
	}
	require.NoError(t, claim(rows[0].ID))
	require.NoError(t, claim(rows[1].ID))
	require.ErrorIs(t, claim(rows[2].ID), journal.ErrLowQueue)
	require.NoError(t, claim(l.submit("!other", 1)), "of another queue")
	require.ErrorIs(t, claim(l.submit("!other", 1)), journal.ErrRoomBusy)
	require.ErrorIs(t, claim(rows[0].ID), journal.ErrSuperseded)
	l.vanish(rows[0].ID)
	require.NoError(t, claim(rows[2].ID), "a worker that vanished has no place")

	// A second purge of the same room is not accepted, one that was asked for is.
	again := rows[0]
	again.ID = jobs.NewID()
	accepted, err = l.Journal.InsertJobs(l.Ctx, []journal.Job{again})
	require.NoError(t, err)
	require.Empty(t, accepted)
	require.ErrorIs(t, l.Journal.InsertJob(l.Ctx, again, false), journal.ErrRoomBusy)
	again.Queue = ""
	require.NoError(t, l.Journal.InsertJob(l.Ctx, again, false))
}

func TestThrottleIsShared(t *testing.T) {
	t.Parallel()
	l := setup(t)
	one, other := l.worker(WorkerOptions{RowsPerSecond: 100}), l.worker(WorkerOptions{RowsPerSecond: 100})
	require.Zero(t, one.limits.Take(l.Ctx, jobs.PurgeHistory, true, 0))
	require.Zero(t, one.limits.Take(l.Ctx, jobs.PurgeHistory, true, 100), "a second's worth is there")
	wait := other.limits.Take(l.Ctx, jobs.PurgeHistory, true, 400)
	require.InDelta(t, 4, wait.Seconds(), 0.5)
	require.GreaterOrEqual(t, one.limits.Take(l.Ctx, jobs.PurgeHistory, true, 300), wait+2*time.Second, "what the other owes counts")
	require.Zero(t, l.worker(WorkerOptions{}).throttle(l.Ctx, jobs.PurgeHistory, true, 1e9, nil), "without a limit no worker asks")

	// Even a debt of hours is forgotten after one.
	require.InDelta(t, time.Hour, one.limits.Take(l.Ctx, jobs.PurgeHistory, true, 1e15), float64(time.Second))
	for _, soup := range []string{"soup", "nan", "", "1e999"} {
		require.NoError(t, l.redis.HSet(l.Ctx, "lethe:retention:rows", "tokens", soup, "at", soup).Err())
		require.Zero(t, one.limits.Take(l.Ctx, jobs.PurgeHistory, true, 1), soup)
	}
	require.Positive(t, l.redis.PTTL(l.Ctx, "lethe:retention:rows").Val())
	l.server.Kill()
	started := time.Now()
	require.NoError(t, one.throttle(l.Ctx, jobs.PurgeHistory, true, 1e9, nil))
	require.Less(t, time.Since(started), 5*time.Second, "a Redis that is down stops no worker")
}

// Two workers together delete no more rows per second than allowed.
func TestPurgesOfSweepsKeepToTheRate(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var events []aged
	for i := range 6 {
		events = append(events, steps(fmt.Sprint("!", i), slices.Repeat([]int64{9}, 61)...)...)
	}
	l.arrive(events...)
	for range 2 {
		l.work(WorkerOptions{Retention: keeping(day), MaxRunning: 2, RowsPerSecond: 100, BatchEvents: 20})
	}
	l.swept(l.sweep("all"))
	deleted := storetest.All[int64](l.Lab, `SELECT sum((checkpoint ->> 'events_deleted')::bigint) FROM lethe.jobs WHERE queue = 'low'`)[0]
	require.EqualValues(t, 360, deleted)
	took := storetest.All[float64](l.Lab, `
		SELECT extract(epoch FROM max(ended_at) - min(started_at))::float FROM lethe.jobs WHERE queue = 'low'`)[0]
	// A second's worth is there at the beginning, and two batches owe.
	require.GreaterOrEqual(t, took, float64(deleted-100-2*20)/100)
}

func TestLongPausesAreYields(t *testing.T) {
	t.Parallel()
	l := setup(t)
	w := l.worker(WorkerOptions{RowsPerSecond: 10})
	w.endDrain() // so that no worker pauses
	var yield jobs.YieldError
	require.ErrorAs(t, w.throttle(l.Ctx, jobs.PurgeHistory, true, 1000, nil), &yield)
	require.Equal(t, jobs.YieldRate, yield.Reason)
	require.Equal(t, time.Minute, yield.After)
	require.NoError(t, l.redis.Del(l.Ctx, "lethe:retention:rows").Err())
	require.NoError(t, w.throttle(l.Ctx, jobs.PurgeHistory, true, 30, nil))
	purge := purgeHistoryParameters{Token: matrix.Token{Topological: 1}, RetentionJob: "all"}
	encoded, err := json.Marshal(purge)
	require.NoError(t, err)
	require.True(t, strings.Contains(string(encoded), `"retention_job":"all"`))
}
