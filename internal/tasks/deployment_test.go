package tasks

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// in returns the lab as a process with other names sees it. Its jobs and its Redis are the
// same.
func (l *lab) in(names *redisdb.Names) *lab {
	other := *l
	other.board = jobs.NewBoard(l.DB, l.redis, time.Hour, l.log).In(names)
	other.client = NewClient(storetest.On(l.T, l.URL).DB, l.redis, names, l.log)
	return &other
}

// counted returns the value of a counter.
func counted(t *testing.T, counter prometheus.Metric) float64 {
	t.Helper()
	var metric dto.Metric
	require.NoError(t, counter.Write(&metric))
	return metric.GetCounter().GetValue()
}

// A task of a job that the database does not have tells of a second deployment with the same
// names. It must not be lost in silence.
func TestATaskWithoutAJobIsCounted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	unknown := journal.Job{ID: jobs.NewID(), Kind: jobs.PurgeHistory, Room: room, Generation: 1}
	require.NoError(t, dispatch.New(l.redis, nil).Enqueue(l.Ctx, unknown))
	l.chain(room, 9)
	id := l.submit(room, 6)
	l.Exec(`UPDATE lethe.jobs SET generation = 2 WHERE id = $1`, id) // its task is of another generation
	l.work(WorkerOptions{})
	require.Eventually(t, func() bool { return len(l.pending()) == 0 && counted(t, l.metrics.UnknownTasks) > 0 },
		time.Minute, 20*time.Millisecond)
	require.InDelta(t, 1, counted(t, l.metrics.UnknownTasks), 0, "a job of another generation is known")
}

// In a rolling upgrade workers with the names of before and with those of the deployment
// work on one database and one Redis, and do not see each other's locks and tasks. Each
// batch is still done once: the journal gives a job to one run, and a room's batches have a
// fence.
func TestWorkersWithOtherNamesDoNoJobTwice(t *testing.T) {
	t.Parallel()
	l := setup(t)
	upgraded := l.in(redisdb.NamesOf("0123456789ab"))
	rooms := []string{"!a:x", "!b:x", "!c:x", "!d:x"}
	var ids []string
	for _, room := range rooms {
		l.chain(room, 40)
		for before := int64(10); before <= 40; before += 10 {
			submit := l
			if before%20 == 0 {
				submit = upgraded
			}
			id := submit.submit(room, before)
			ids = append(ids, id)
			// Both have a task of the job, as after the reconcilers of both.
			require.NoError(t, dispatch.New(l.redis, nil).Enqueue(l.Ctx, l.Job(id)))
			require.NoError(t, dispatch.New(l.redis, upgraded.board.Names()).Enqueue(l.Ctx, l.Job(id)))
		}
	}
	// Every deletion of an event counts, also one that is rolled back.
	l.Exec(`CREATE SEQUENCE deletions`)
	l.Exec(`CREATE FUNCTION tally() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM nextval('public.deletions'::regclass);
		RETURN OLD;
	END $$`)
	l.Exec(`GRANT USAGE ON SEQUENCE deletions TO PUBLIC`)
	l.Exec(`CREATE TRIGGER check_event_stream_ordering BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION tally()`)
	l.work(WorkerOptions{BatchEvents: 3, Concurrency: 3})
	upgraded.work(WorkerOptions{BatchEvents: 3, Concurrency: 3})
	for _, id := range ids {
		require.Equal(t, journal.Complete, upgraded.ends(id).State, id)
	}
	for _, room := range rooms {
		require.Equal(t, []int64{40}, l.depths(room))
	}
	require.EqualValues(t, 4*39, storetest.One[int64](l.Lab, `SELECT last_value FROM deletions`))
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs WHERE failures > 0 OR generation > 1`))
	require.Zero(t, counted(t, l.metrics.FenceRejections))
}

// A worker of before that was stopped inside its batch does not see the lock of an upgraded
// one, which has taken over its job. Its fence keeps it from committing.
func TestAWorkerWithOtherNamesIsFenced(t *testing.T) {
	t.Parallel()
	l := setup(t)
	upgraded := l.in(redisdb.NamesOf("0123456789ab"))
	l.chain(room, 9)
	id := l.submit(room, 6)
	old := l.worker(WorkerOptions{})
	run := l.claim(id)
	ctx, batch, err := old.begin(l.Ctx, jobs.PurgeHistory, room, run)
	require.NoError(t, err)
	l.vanish(id)
	require.NoError(t, upgraded.reconciler().Check(l.Ctx))
	upgraded.work(WorkerOptions{})
	require.Equal(t, journal.Complete, upgraded.ends(id).State, "it does not wait for a lock that it does not see")
	require.NoError(t, ctx.Err(), "the lock of before is not lost")

	_, err = batch.Exec(ctx, `DELETE FROM events WHERE room_id = $1`, room)
	if err == nil {
		err = batch.Commit(ctx, nil)
	}
	batch.end(&err)
	require.ErrorIs(t, err, journal.ErrFenced)
	require.Equal(t, []int64{6, 7, 8, 9}, l.depths(room))
}
