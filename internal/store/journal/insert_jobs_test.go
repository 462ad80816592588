package journal_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

func TestInsertJobsLeavesOutExistingJobs(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	there := l.Queue(room)
	deletes := func(room string) journal.Job {
		job := storetest.NewJob(jobs.NewID(), room)
		job.Kind = jobs.DeleteRoom
		return job
	}
	first, second, other := deletes(room), deletes(room), deletes("!other:x")
	purge := storetest.NewJob(jobs.NewID(), room)

	accepted, err := l.Journal.InsertJobs(l.Ctx, []journal.Job{storetest.NewJob(there, "!other:x"), first, second, purge, other})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{first.ID, purge.ID, other.ID}, accepted)
	require.Equal(t, room, l.Job(there).Room)

	accepted, err = l.Journal.InsertJobs(l.Ctx, []journal.Job{first, second, deletes("!other:x")})
	require.NoError(t, err)
	require.Empty(t, accepted)
}

// TestJobsThatArriveTogether has many callers insert jobs at once, some of which the
// database refuses: each caller learns the result of its own job.
func TestJobsThatArriveTogether(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	taken := l.Queue("!taken:x")
	busy := storetest.NewJob(jobs.NewID(), "!busy:x")
	busy.Kind = jobs.DeleteRoom
	require.NoError(t, l.Journal.InsertJob(l.Ctx, busy, false))

	kinds := []struct {
		change func(*journal.Job)
		check  func(*testing.T, error)
	}{
		{func(*journal.Job) {}, func(t *testing.T, err error) { require.NoError(t, err) }},
		{func(*journal.Job) {}, func(t *testing.T, err error) { require.NoError(t, err) }},
		{func(j *journal.Job) { j.ID = taken }, func(t *testing.T, err error) { require.ErrorIs(t, err, journal.ErrExists) }},
		{func(j *journal.Job) { j.Kind, j.Room = busy.Kind, busy.Room }, func(t *testing.T, err error) {
			require.ErrorIs(t, err, journal.ErrRoomBusy)
		}},
		{func(j *journal.Job) { j.Room = "!\x00:x" }, func(t *testing.T, err error) { require.ErrorContains(t, err, "insert the job") }},
		{func(j *journal.Job) { j.Parameters = []byte("{") }, func(t *testing.T, err error) {
			require.ErrorContains(t, err, "insert the job")
		}},
	}
	const most = 60
	all := make([]journal.Job, most)
	errs := make([]error, most)
	var group errgroup.Group
	for i := range most {
		all[i] = storetest.NewJob(jobs.NewID(), room)
		kinds[i%len(kinds)].change(&all[i])
		group.Go(func() error {
			errs[i] = l.Journal.InsertJob(l.Ctx, all[i], false)
			return nil
		})
	}
	require.NoError(t, group.Wait())
	good := 0
	for i, err := range errs {
		kinds[i%len(kinds)].check(t, err)
		if err == nil {
			good++
			require.Equal(t, journal.Queued, l.Job(all[i].ID).State)
		}
	}
	require.Equal(t, most/3, good)
	require.Equal(t, good+2, storetest.One[int](l, `SELECT count(*) FROM lethe.jobs`))
}
