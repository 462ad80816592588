package control_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// A transaction takes the id of its event long before it commits. Another one that is
// faster must not hide it.
func TestStreamWaitsForSlowerWriters(t *testing.T) {
	t.Parallel()
	l := setup(t)
	one, other := l.Queue("!a:x"), l.Queue("!b:x")
	start, err := l.control.LastEvent(l.Ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, start)
	tx, err := l.DB.Acquire(l.Ctx)
	require.NoError(t, err)
	defer tx.Release()
	slow, err := tx.Begin(l.Ctx)
	require.NoError(t, err)
	_, err = slow.Exec(l.Ctx, `UPDATE lethe.jobs SET state = 'cancelled', ended_at = now() WHERE id = $1`, one)
	require.NoError(t, err)
	l.Claim(other)
	events, err := l.control.Events(l.Ctx, start, "", 9)
	require.NoError(t, err)
	require.Empty(t, events, "the event of the other job has a higher id")
	_, err = l.control.LastEvent(l.Ctx)
	require.ErrorIs(t, err, control.ErrUnsettled)
	require.NoError(t, slow.Commit(l.Ctx))
	events, err = l.control.Events(l.Ctx, start, "", 9)
	require.NoError(t, err)
	require.Equal(t, []string{"cancelled", "running"}, names(events))
	events, err = l.control.Events(l.Ctx, start, other, 9)
	require.NoError(t, err)
	require.Equal(t, []string{"running"}, names(events))
	require.Equal(t, other, events[0].JobID)
}

// A transaction that is rolled back leaves a gap, and one of another program that lasts
// writes no events. Neither holds the stream up.
func TestStreamDoesNotWaitForOthers(t *testing.T) {
	t.Parallel()
	l := setup(t)
	conn, err := pgx.Connect(l.Ctx, l.URL)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.WithoutCancel(l.Ctx))) }()
	tx, err := conn.Begin(l.Ctx)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `INSERT INTO rooms (room_id) VALUES ('!long:x')`)
	require.NoError(t, err)
	require.ErrorIs(t, pgx.BeginFunc(l.Ctx, l.Conn, func(undone pgx.Tx) error {
		_, err := undone.Exec(l.Ctx, `
			INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester) VALUES ('ABCDEFGHIJKLMNOP', 'purge_history', '!x:x', '{}', '@a:x')`)
		require.NoError(t, err)
		return pgx.ErrTxClosed
	}), pgx.ErrTxClosed)
	l.Queue(room)
	events, err := l.control.Events(l.Ctx, 0, "", 9)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.EqualValues(t, 2, events[0].ID)
	require.NoError(t, tx.Rollback(l.Ctx))
}

func TestStreamMissesNothing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	ctx, stop := context.WithTimeout(l.Ctx, 4*time.Second)
	defer stop()
	var writers, reader sync.WaitGroup
	for range 6 {
		writers.Go(func() {
			for ctx.Err() == nil {
				id := jobs.NewID()
				if l.Journal.InsertJob(ctx, storetest.NewJob(id, "!"+id+":x"), false) != nil {
					continue
				}
				job, err := l.Journal.ClaimJob(ctx, id, 1, jobs.HeartbeatStale, 0)
				if err == nil {
					_ = l.Journal.EndJob(ctx, storetest.RunOf(job), journal.Complete, "")
				}
			}
		})
	}
	seen := map[int64]int{}
	var after int64
	read := func() {
		events, err := l.control.Events(l.Ctx, after, "", 100)
		if err != nil {
			t.Error(err)
			return
		}
		for _, e := range events {
			seen[e.ID]++
			after = e.ID
		}
	}
	reader.Go(func() {
		for ctx.Err() == nil {
			read()
		}
	})
	writers.Wait()
	reader.Wait()
	for before := int64(-1); before < after; {
		before = after
		read()
	}
	ids := storetest.All[int64](l.Lab, `SELECT id FROM lethe.job_events`)
	require.Greater(t, len(ids), 100)
	require.Len(t, seen, len(ids))
	for _, id := range ids {
		require.Equal(t, 1, seen[id])
	}
}

// The log of a job that looks for hours whether it may go on stays short.
func TestLogOfAPatientJobStaysShort(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue(room)
	for range 5 { // slices
		require.NoError(t, l.Journal.YieldJob(l.Ctx, l.Claim(id), journal.Yield{}))
	}
	require.Equal(t, []string{"queued", "running"}, names(l.log(id)))
	for range 5 { // looks
		require.NoError(t, l.Journal.YieldJob(l.Ctx, l.Claim(id), journal.Yield{WaitsFor: "waiting: Synapse"}))
	}
	require.Equal(t, []string{"queued", "running", "queued"}, names(l.log(id)))
	require.Contains(t, string(l.log(id)[2].Detail), "waiting: Synapse")
	run := l.Claim(id)
	fence, err := l.Journal.NextFence(l.Ctx, room)
	require.NoError(t, err)
	require.NoError(t, l.InBatch(storetest.Work{Run: run, RoomLock: journal.RoomLock{Room: room, Fence: fence, Lease: time.Minute}},
		func(*journal.Batch) (any, error) { return 1, nil }))
	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Failed, "why"))
	log := l.log(id)
	require.Equal(t, []string{"queued", "running", "queued", "running", "failed"}, names(log))
	require.Contains(t, string(log[4].Detail), `"error": "why"`)
}

// Databases that were made from one template have the same ids of tables.
func TestStreamDoesNotWaitForOtherDatabases(t *testing.T) {
	t.Parallel()
	l, other := setup(t), setup(t)
	const table = `SELECT 'lethe.job_events'::regclass::oid::bigint`
	require.Equal(t, storetest.One[int64](l.Lab, table), storetest.One[int64](other.Lab, table))
	other.Exec(`BEGIN`)
	other.Exec(`LOCK TABLE lethe.job_events IN ROW EXCLUSIVE MODE`)
	_, err := other.control.LastEvent(l.Ctx)
	require.ErrorIs(t, err, control.ErrUnsettled)
	l.Queue(room)
	last, err := l.control.LastEvent(l.Ctx)
	require.NoError(t, err)
	require.EqualValues(t, 1, last)
	other.Exec(`ROLLBACK`)
}
