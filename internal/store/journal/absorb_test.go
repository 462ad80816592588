package journal_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// absorbed reads which job has absorbed the job, in its state.
func absorbed(l *storetest.Lab, id string) string {
	l.T.Helper()
	require.Equal(l.T, journal.Absorbed, l.Job(id).State)
	return storetest.One[string](l, `SELECT checkpoint ->> 'absorbed_by' FROM lethe.jobs WHERE id = $1`, id)
}

func TestAbsorbJobsTakesOnlyWhatHasNotBegun(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	absorber := l.Queue(room)
	fresh, yielded, begun, ended, elsewhere := l.Queue(room), l.Queue(room), l.Queue(room), l.Queue(room), l.Queue("!other:x")
	l.Exec(`UPDATE lethe.jobs SET attempt = 3 WHERE id = $1`, yielded)
	l.Exec(`UPDATE lethe.jobs SET checkpoint = '{}' WHERE id = $1`, begun)
	l.Exec(`UPDATE lethe.jobs SET state = 'complete', ended_at = now() WHERE id = $1`, ended)
	all := []string{absorber, fresh, yielded, begun, ended, elsewhere, jobs.NewID()}

	run := l.Claim(absorber)
	for _, other := range []journal.Run{
		{JobID: run.JobID, Generation: run.Generation, Attempt: run.Attempt - 1},
		{JobID: run.JobID, Generation: run.Generation + 1, Attempt: run.Attempt},
		{JobID: fresh, Generation: 1, Attempt: 0},
	} {
		l.RequireUnchanged(func() {
			none, err := journal.NewAbsorptions(l.DB).AbsorbJobs(l.Ctx, other, all)
			require.NoError(t, err)
			require.Empty(t, none)
		})
	}
	got, err := journal.NewAbsorptions(l.DB).AbsorbJobs(l.Ctx, run, all)
	require.NoError(t, err)
	var ids []string
	for _, job := range got {
		ids = append(ids, job.ID)
		require.Equal(t, run.JobID, absorbed(l, job.ID))
	}
	require.ElementsMatch(t, []string{fresh, yielded}, ids)
	_, err = l.Journal.ClaimJob(l.Ctx, fresh, 1, 0, 0)
	require.ErrorIs(t, err, journal.ErrSuperseded, "a second delivery of its task")

	// After its first batch it has passed what the others would do.
	later := l.Queue(room)
	l.Exec(`UPDATE lethe.jobs SET checkpoint = '{}' WHERE id = $1`, absorber)
	got, err = journal.NewAbsorptions(l.DB).AbsorbJobs(l.Ctx, run, []string{later})
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestYieldTo(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	run, other, elsewhere := l.Claim(l.Queue(room)), l.Queue(room), l.Queue("!other:x")
	for _, by := range []string{run.JobID, elsewhere, jobs.NewID()} {
		require.ErrorIs(t, journal.NewAbsorptions(l.DB).YieldTo(l.Ctx, run, by), journal.ErrBegun)
	}
	lost := run
	lost.Attempt--
	require.ErrorIs(t, journal.NewAbsorptions(l.DB).YieldTo(l.Ctx, lost, other), journal.ErrSuperseded)
	for _, column := range []string{`checkpoint = '{}'`, `state = 'held'`, `state = 'complete', ended_at = now()`} {
		l.Exec(`UPDATE lethe.jobs SET `+column+` WHERE id = $1`, other)
		require.ErrorIs(t, journal.NewAbsorptions(l.DB).YieldTo(l.Ctx, run, other), journal.ErrBegun, column)
		l.Exec(`UPDATE lethe.jobs SET state = 'queued', checkpoint = NULL, ended_at = NULL WHERE id = $1`, other)
	}
	require.NoError(t, journal.NewAbsorptions(l.DB).YieldTo(l.Ctx, run, other))
	require.Equal(t, other, absorbed(l, run.JobID))
	require.ErrorIs(t, l.Journal.EndJob(l.Ctx, run, journal.Complete, ""), journal.ErrSuperseded)
	l.Claim(other)
}

// An absorbed job ends as its absorber does, and only then.
func TestSettleAbsorbed(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	settle := func() map[string]journal.Job {
		settled := map[string]journal.Job{}
		for {
			some, err := journal.NewAbsorptions(l.DB).SettleAbsorbed(l.Ctx, 2)
			require.NoError(t, err)
			require.LessOrEqual(t, len(some), 2)
			if len(some) == 0 {
				return settled
			}
			for _, job := range some {
				settled[job.ID] = job
			}
		}
	}
	for end, want := range map[journal.State]journal.State{
		journal.Complete: journal.Complete, journal.Failed: journal.Failed, journal.Cancelled: journal.Queued, "deleted": journal.Queued,
	} {
		room := "!" + string(end) + ":x"
		run := l.Claim(l.Queue(room))
		ids := []string{l.Queue(room), l.Queue(room), l.Queue(room)}
		_, err := journal.NewAbsorptions(l.DB).AbsorbJobs(l.Ctx, run, ids)
		require.NoError(t, err)
		// A chain: the last was absorbed by the one before.
		l.Exec(`UPDATE lethe.jobs SET checkpoint = jsonb_build_object('absorbed_by', $2::text) WHERE id = $1`, ids[2], ids[1])
		require.Empty(t, settle())
		switch end {
		case journal.Complete:
			require.NoError(t, l.Journal.EndJob(l.Ctx, run, end, ""))
		case journal.Failed:
			require.NoError(t, l.Journal.EndJob(l.Ctx, run, end, "400: why"))
		case journal.Cancelled:
			require.NoError(t, l.Journal.EndJob(l.Ctx, run, end, ""))
		default:
			l.Exec(`DELETE FROM lethe.jobs WHERE id = $1`, run.JobID)
		}
		none, err := journal.NewAbsorptions(l.DB).SettleAbsorbedOf(l.Ctx, "!elsewhere:x", 9)
		require.NoError(t, err)
		require.Empty(t, none)
		settled := settle()
		if want == journal.Queued {
			require.Len(t, settled, 2, "what has absorbed the last one goes on")
			require.Equal(t, ids[1], absorbed(l, ids[2]))
			ids = ids[:2]
		}
		for i, id := range ids {
			job := l.Job(id)
			require.Equal(t, want, job.State)
			require.Equal(t, job.State, settled[id].State)
			switch want {
			case journal.Queued:
				require.Equal(t, 2, job.Generation)
				require.Nil(t, job.Checkpoint)
				require.True(t, job.TaskMissing)
				continue
			case journal.Failed:
				require.Contains(t, job.Error, "which had absorbed this one, failed: ")
				require.Contains(t, job.Error, "400: why")
			}
			by := run.JobID
			if i == 2 {
				by = ids[1]
			}
			require.JSONEq(t, `{"absorbed_by": "`+by+`"}`, string(job.Checkpoint))
		}
	}
}
