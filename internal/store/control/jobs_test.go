package control_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

func TestJobTellsWhatOperatorsWantToKnow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := jobs.NewID()
	job := storetest.NewJob(id, room)
	job.Reason, job.Plan, job.Grace = "too large", json.RawMessage(`{"digest":"d"}`), time.Hour
	require.NoError(t, l.Journal.InsertJob(l.Ctx, job, false))
	got, err := l.control.Job(l.Ctx, id)
	require.NoError(t, err)
	require.Equal(t, journal.Scheduled, got.State)
	require.Equal(t, "too large", got.Reason)
	require.JSONEq(t, `{"digest":"d"}`, string(got.Plan))
	require.WithinDuration(t, got.Created.Add(time.Hour), got.Due, time.Second)
	require.Equal(t, "grace: it ends at "+got.Due.UTC().Format(time.RFC3339), got.WaitsFor)
	require.Equal(t, map[string]int64{}, got.Deleted)
	require.Equal(t, []string{"scheduled"}, names(l.log(id)))
	require.Equal(t, "@admin:x", l.log(id)[0].Who)
	require.Equal(t, "too large", l.log(id)[0].Reason)

	l.Exec(`UPDATE lethe.jobs SET due_at = now() WHERE id = $1`, id)
	due, err := l.pauses.QueueDue(l.Ctx, 9)
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.True(t, due[0].TaskMissing)
	run, err := journal.New(l.DB).RunBy("host:1").ClaimJob(l.Ctx, id, 1, jobs.HeartbeatStale, 0)
	require.NoError(t, err)
	require.NoError(t, journal.RecordTotal(l.Ctx, l.DB, storetest.RunOf(run), 40))
	fence, err := l.Journal.NextFence(l.Ctx, room)
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, l.InBatch(storetest.Work{Run: storetest.RunOf(run), RoomLock: journal.RoomLock{Room: room, Fence: fence, Lease: time.Minute}},
			func(b *journal.Batch) (any, error) {
				b.Count("events", 5)
				b.Count("event_json", 4)
				b.Count("lethe.room_fences", 4)
				return map[string]any{"phase": "events", "events_deleted": 10, "events_kept": 3, "batches": 2, "complete_below": 12}, nil
			}))
	}
	l.Exec(`INSERT INTO lethe.swept_mappings VALUES ($1, 6)`, id)
	_, err = l.Journal.FailBatch(l.Ctx, storetest.RunOf(run), "a deadlock")
	require.NoError(t, err)
	l.Queue("!other:x") // whose jobs take turns of their own
	second := l.Queue(room)
	third := l.Queue(room)
	got, err = l.control.Job(l.Ctx, id)
	require.NoError(t, err)
	require.Equal(t, "host:1", got.Worker)
	require.EqualValues(t, 40, *got.Total)
	require.Equal(t, map[string]int64{"events": 10, "event_json": 8, "event_to_state_groups": 6}, got.Deleted)
	require.Equal(t, control.Progress{Phase: "events", Done: 13, Events: 10, Batches: 2, CompleteBelow: got.CompleteBelow}, got.Progress)
	require.EqualValues(t, 12, *got.CompleteBelow)
	require.Equal(t, "a deadlock", got.LastFailure)
	require.False(t, got.Started.IsZero())
	require.True(t, got.Ended.IsZero())
	require.Empty(t, got.WaitsFor)
	for i, queued := range []string{second, third} {
		waiting, err := l.control.Job(l.Ctx, queued)
		require.NoError(t, err)
		require.Equal(t, i+1, waiting.Turn)
		require.Equal(t, "turn: "+[]string{"2nd", "3rd"}[i]+" of this room, of which the job "+id+" runs", waiting.WaitsFor)
		require.Positive(t, waiting.WaitsSince)
		require.Empty(t, waiting.Worker)
	}
	l.Exec(`UPDATE lethe.jobs SET waits_for = $2, waits_since = now() WHERE id = $1`, second, journal.RoomLockTaken)
	got, err = l.control.Job(l.Ctx, second)
	require.NoError(t, err)
	require.Equal(t, "room's lock, held by the job "+id, got.WaitsFor)
	l.Exec(`UPDATE lethe.jobs SET waits_for = $2, waits_since = now() WHERE id = $1`, id, journal.RoomLockTaken)
	got, err = l.control.Job(l.Ctx, id)
	require.NoError(t, err)
	require.Equal(t, "room's lock, held by readers", got.WaitsFor, "a job does not wait for itself")
	_, err = l.Holds.Place(l.Ctx, room, "case 42", "@counsel:x")
	require.NoError(t, err)
	require.NoError(t, l.Journal.HoldJob(l.Ctx, storetest.RunOf(run)))
	got, err = l.control.Job(l.Ctx, id)
	require.NoError(t, err)
	require.Equal(t, "hold: case 42", got.WaitsFor)
	_, err = l.control.Job(l.Ctx, jobs.NewID())
	require.ErrorIs(t, err, postgres.ErrNotFound)
	_, err = l.control.Job(l.Ctx, "\x00")
	require.ErrorIs(t, err, postgres.ErrNotFound)
}

// More events may come than were counted at the beginning.
func TestTotalIsNeverLessThanDone(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.in(journal.Running, room) // which has gone through 7
	for _, total := range []int64{6, 8} {
		l.Exec(`UPDATE lethe.jobs SET total = $2 WHERE id = $1`, id, total)
		job, err := l.control.Job(l.Ctx, id)
		require.NoError(t, err)
		require.Equal(t, max(total, 7), *job.Total)
	}
}

// What will stop a job is seen during its grace.
func TestGraceNamesWhatComesAfterIt(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.in(journal.Scheduled, room)
	waits := func() string {
		job, err := l.control.Job(l.Ctx, id)
		require.NoError(t, err)
		require.Positive(t, job.WaitsSince)
		return job.WaitsFor
	}
	grace := waits()
	require.Regexp(t, `^grace: it ends at [-0-9T:]+Z$`, grace)
	_, err := l.Holds.Place(l.Ctx, room, "case 42", "@counsel:x")
	require.NoError(t, err)
	require.Equal(t, grace+", and then comes the hold: case 42", waits())
	require.True(t, l.do(control.Request{Verb: control.VerbPause}, id).Done)
	require.Equal(t, grace+", and then comes the pause of the job, by @op:x: because, and hold: case 42", waits())
	_, err = l.control.SetPause(l.Ctx, control.Pause{Scope: control.ScopeJob, Value: id, Who: "@op:x"})
	require.NoError(t, err)
	_, err = l.Holds.Release(l.Ctx, room, "@counsel:x")
	require.NoError(t, err)
	require.Equal(t, grace+", and then comes the pause of the job, by @op:x", waits(), "no reason, no colon")
}

func TestJobsInPages(t *testing.T) {
	t.Parallel()
	l := setup(t)
	var ids []string
	for i := range 7 {
		ids = append([]string{l.in(journal.States()[i%3], fmt.Sprintf("!r%d:x", i%2))}, ids...)
		l.Exec(`UPDATE lethe.jobs SET created_at = $2, requester = $3 WHERE id = $1`, ids[0], time.Unix(int64(1000+i/2), 0), fmt.Sprintf("@u%d:x", i%4))
	}
	all := func(filter control.Filter, limit int) (got []string) {
		page := control.Page{Limit: limit}
		for range 10 {
			jobs, next, err := l.control.Jobs(l.Ctx, filter, page)
			require.NoError(t, err)
			require.LessOrEqual(t, len(jobs), limit)
			for _, j := range jobs {
				got = append(got, j.ID)
			}
			if page.After = next; next == "" {
				break
			}
		}
		return got
	}
	var sorted []string
	require.NoError(t, l.Conn.QueryRow(l.Ctx, `SELECT array_agg(id ORDER BY created_at DESC, id DESC) FROM lethe.jobs`).Scan(&sorted))
	for limit := 1; limit <= 8; limit++ {
		require.Equal(t, sorted, all(control.Filter{}, limit), limit)
	}
	// A position is as exact as the times are, and jobs of the same time have an order.
	l.Exec(`UPDATE lethe.jobs SET created_at = timestamptz '2026-01-01' + ascii(id) % 3 * interval '1 microsecond'`)
	exactly := storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs ORDER BY created_at DESC, id DESC`)
	for limit := 1; limit <= 8; limit++ {
		require.Equal(t, exactly, all(control.Filter{}, limit), limit)
	}
	// Also where the server sorts, instead of reading an index.
	l.Exec(`DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET enable_indexscan = off', current_database());
		EXECUTE format('ALTER DATABASE %I SET enable_bitmapscan = off', current_database());
	END $$`)
	l.Exec(`UPDATE lethe.jobs SET created_at = timestamptz '2026-01-01'`)
	slices.Sort(exactly)
	for _, id := range exactly { // in this order the table has them afterwards
		l.Exec(`UPDATE lethe.jobs SET updated_at = now() WHERE id = $1`, id)
	}
	slices.Reverse(exactly)
	indexed := l.control
	l.control = control.New(storetest.OnAs(t, l.URL, schema.API).DB)
	require.Equal(t, exactly, all(control.Filter{}, 2))
	l.control = indexed
	for i, id := range ids {
		l.Exec(`UPDATE lethe.jobs SET created_at = $2 WHERE id = $1`, id, time.Unix(int64(1000+(6-i)/2), 0))
	}
	for name, c := range map[string]struct {
		filter control.Filter
		where  string
	}{
		"state":      {control.Filter{States: []journal.State{journal.Queued, journal.Running}}, `state IN ('queued', 'running')`},
		"kind":       {control.Filter{Kinds: []journal.Kind{jobs.DeleteRoom}}, `kind = 'delete_room'`},
		"room":       {control.Filter{Room: "!r1:x"}, `room_id = '!r1:x'`},
		"requester":  {control.Filter{Requester: "@u3:x"}, `requester = '@u3:x'`},
		"times":      {control.Filter{Since: time.Unix(1001, 0), Before: time.Unix(1003, 0)}, `created_at IN (to_timestamp(1001), to_timestamp(1002))`},
		"ids":        {control.Filter{IDs: ids[:2]}, `id IN ('` + ids[0] + `', '` + ids[1] + `')`},
		"unstorable": {control.Filter{Room: "\x00"}, `false`},
	} {
		require.ElementsMatch(t, storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs WHERE `+c.where), all(c.filter, 2), name)
	}
	for _, after := range []string{
		"x", "!", base64.RawURLEncoding.EncodeToString([]byte("1 \x00")),
		base64.RawURLEncoding.EncodeToString([]byte("9223372036854775807 id")), base64.RawURLEncoding.EncodeToString([]byte("-9223372036854775807 id")),
	} {
		_, _, err := l.control.Jobs(l.Ctx, control.Filter{}, control.Page{After: after})
		require.ErrorIs(t, err, control.ErrPosition, after)
	}
}
