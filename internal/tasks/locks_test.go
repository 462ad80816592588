package tasks

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// A session that has locked a row of the room, and is idle, makes a purge wait and say for
// whom. However long that takes, the purge does not fail, until its patience ends.
func TestPurgeWaitsForAForeignLock(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	other, err := pgx.Connect(l.Ctx, l.URL)
	require.NoError(t, err)
	defer func() { _ = other.Close(l.Ctx) }()
	lock := func() {
		_, err := other.Exec(l.Ctx, `BEGIN; SET search_path = public; SELECT FROM events WHERE topological_ordering = 2 FOR UPDATE`)
		require.NoError(t, err)
	}
	waits := func(id string) journal.Job {
		text := fmt.Sprintf("waiting: a lock of pid %d", other.PgConn().PID())
		require.Eventually(t, func() bool {
			job := l.Job(id)
			return job.State == journal.Queued && strings.HasPrefix(job.WaitsFor, text)
		}, time.Minute, 20*time.Millisecond)
		return l.Job(id)
	}
	lock()
	id := l.submit(room, 6)
	l.Exec(`UPDATE lethe.jobs SET failures = $1`, dispatch.MaxFailures-1)
	stop := l.work(WorkerOptions{})
	attempt := waits(id).Attempt
	l.Exec(`UPDATE lethe.jobs SET waits_since = waits_since - interval '23 hours' WHERE id = $1`, id)
	require.Eventually(t, func() bool { return l.Job(id).Attempt > attempt && l.Job(id).State == journal.Queued }, time.Minute, 20*time.Millisecond)
	require.Greater(t, waits(id).WaitsSince, 23*time.Hour, "it counts all its waits")
	require.Equal(t, dispatch.MaxFailures-1, l.Job(id).Failures)
	_, err = other.Exec(l.Ctx, `ROLLBACK`)
	require.NoError(t, err)
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
	stop()

	l.chain("!other:x", 9)
	_, err = other.Exec(l.Ctx, `BEGIN; SELECT FROM events WHERE room_id = '!other:x' AND topological_ordering = 2 FOR UPDATE`)
	require.NoError(t, err)
	id = l.submit("!other:x", 6)
	l.work(WorkerOptions{})
	waits(id)
	l.Exec(`UPDATE lethe.jobs SET waits_since = waits_since - interval '25 hours' WHERE id = $1`, id)
	status := l.ends(id)
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "gave up after 25h0m")
	require.Contains(t, status.Error, fmt.Sprintf("a lock of pid %d", other.PgConn().PID()))
	require.Equal(t, 9, len(storetest.All[int64](l.Lab, `SELECT depth FROM events WHERE room_id = '!other:x'`)))
}

// A disk that is full is not the job's fault. The purge waits until there is space again.
func TestPurgeWaitsForSpaceOnTheDisk(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	// What the server says when it cannot extend a file.
	l.Exec(`CREATE SCHEMA aside`)
	l.Exec(`CREATE TABLE aside.disk (is_full boolean)`)
	l.Exec(`INSERT INTO aside.disk VALUES (true)`)
	l.Exec(`CREATE FUNCTION aside.extend() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
		IF NEW.checkpoint::text IS DISTINCT FROM OLD.checkpoint::text AND (SELECT is_full FROM aside.disk) THEN
			RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
		END IF;
		RETURN NEW;
	END $$`)
	l.Exec(`CREATE TRIGGER extend BEFORE UPDATE ON lethe.jobs FOR EACH ROW EXECUTE FUNCTION aside.extend()`)
	id := l.submit(room, 6)
	l.Exec(`UPDATE lethe.jobs SET failures = $1`, dispatch.MaxFailures-1)
	l.work(WorkerOptions{})
	waits := func(attempts int) {
		require.Eventually(t, func() bool {
			job := l.Job(id)
			return job.State == journal.Queued && job.Attempt >= attempts && job.WaitsFor == "waiting: space on PostgreSQL's disk"
		}, time.Minute, 20*time.Millisecond)
	}
	waits(2)
	require.Equal(t, dispatch.MaxFailures-1, l.Job(id).Failures)
	require.Len(t, l.depths(room), 9)
	l.Exec(`UPDATE aside.disk SET is_full = false`)
	require.Equal(t, journal.Complete, l.ends(id).State)
	require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
}
