package store_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/jobs"
	"lethe/internal/store"
)

func TestInsertJobsLeavesOutWhatIsThere(t *testing.T) {
	t.Parallel()
	l := setup(t)
	there := l.queue(room)
	deletes := func(room string) store.Job {
		job := newJob(jobs.NewID(), room)
		job.Kind = string(jobs.DeleteRoom)
		return job
	}
	first, second, other := deletes(room), deletes(room), deletes("!other:x")
	purge := newJob(jobs.NewID(), room)

	accepted, err := l.store.InsertJobs(l.ctx, []store.Job{newJob(there, "!other:x"), first, second, purge, other})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{first.ID, purge.ID, other.ID}, accepted)
	require.Equal(t, room, l.job(there).Room)

	accepted, err = l.store.InsertJobs(l.ctx, []store.Job{first, second, deletes("!other:x")})
	require.NoError(t, err)
	require.Empty(t, accepted)
}

// TestJobsThatArriveTogether has many callers insert jobs at once, good ones and
// such as the database refuses: each learns about its own.
func TestJobsThatArriveTogether(t *testing.T) {
	t.Parallel()
	l := setup(t)
	taken := l.queue("!taken:x")
	busy := newJob(jobs.NewID(), "!busy:x")
	busy.Kind = string(jobs.DeleteRoom)
	require.NoError(t, l.store.InsertJob(l.ctx, busy, false))

	kinds := []struct {
		change func(*store.Job)
		check  func(*testing.T, error)
	}{
		{func(*store.Job) {}, func(t *testing.T, err error) { require.NoError(t, err) }},
		{func(*store.Job) {}, func(t *testing.T, err error) { require.NoError(t, err) }},
		{func(j *store.Job) { j.ID = taken }, func(t *testing.T, err error) { require.ErrorIs(t, err, store.ErrExists) }},
		{func(j *store.Job) { j.Kind, j.Room = busy.Kind, busy.Room }, func(t *testing.T, err error) {
			require.ErrorIs(t, err, store.ErrRoomBusy)
		}},
		{func(j *store.Job) { j.Room = "!\x00:x" }, func(t *testing.T, err error) { require.ErrorContains(t, err, "insert the job") }},
		{func(j *store.Job) { j.Parameters = []byte("{") }, func(t *testing.T, err error) {
			require.ErrorContains(t, err, "insert the job")
		}},
	}
	const most = 60
	all := make([]store.Job, most)
	errs := make([]error, most)
	var group errgroup.Group
	for i := range most {
		all[i] = newJob(jobs.NewID(), room)
		kinds[i%len(kinds)].change(&all[i])
		group.Go(func() error {
			errs[i] = l.store.InsertJob(l.ctx, all[i], false)
			return nil
		})
	}
	require.NoError(t, group.Wait())
	good := 0
	for i, err := range errs {
		kinds[i%len(kinds)].check(t, err)
		if err == nil {
			good++
			require.Equal(t, store.JobQueued, l.job(all[i].ID).State)
		}
	}
	require.Equal(t, most/3, good)
	require.Equal(t, good+2, one[int](l, `SELECT count(*) FROM lethe.jobs`))
}
