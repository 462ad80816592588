package journal_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// A task that the homeserver would run for a job deletes something of the room, as a
// batch does.
func TestHoldCancelsTheTasksOfJobs(t *testing.T) {
	t.Parallel()
	const room = "!r:x"
	l := storetest.New(t)
	l.Exec(`CREATE TABLE public.scheduled_tasks (
		id text PRIMARY KEY, action text NOT NULL, status text NOT NULL, timestamp bigint NOT NULL,
		resource_id text, params text, result text, error text)`)
	l.Exec(`GRANT ALL ON public.scheduled_tasks TO PUBLIC`)
	l.Exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, checkpoint)
		VALUES ('AAAAAAAAAAAAAAAA', 'delete_room', $1, '{}', 'x', '{"task": "ours"}')`, room)
	l.Exec(`
		INSERT INTO public.scheduled_tasks (id, action, status, timestamp, resource_id)
		VALUES ('ours', 'purge_room', 'active', 1, $1), ('theirs', 'purge_room', 'scheduled', 1, $1)`, room)
	holds := journal.NewHolds(l.DB)

	_, err := holds.Place(l.Ctx, room, "case 7", "counsel")
	require.ErrorIs(t, err, journal.ErrBatchRuns, "Synapse is at it")
	require.NoError(t, holds.Check(l.Ctx, room))

	l.Exec(`UPDATE public.scheduled_tasks SET status = 'scheduled' WHERE id = 'ours'`)
	_, err = holds.Place(l.Ctx, room, "case 7", "counsel")
	require.NoError(t, err)
	require.ErrorIs(t, holds.Check(l.Ctx, room), journal.ErrHeld)
	require.Equal(t, []string{`{}`}, storetest.All[string](l, `SELECT checkpoint::text FROM lethe.jobs`), "the job requests another one")
	require.Equal(t, []string{"theirs"}, storetest.All[string](l, `SELECT id FROM public.scheduled_tasks`))
}
