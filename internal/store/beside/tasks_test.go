package beside_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/beside"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/store/storetest"
)

func TestMayRequestTasks(t *testing.T) {
	t.Parallel()
	may := func(l *storetest.Lab) bool {
		may, err := beside.MayRequestTasks(l.Ctx, l.DB)
		require.NoError(t, err)
		return may
	}
	l := setup(t)
	require.True(t, may(l), "as the role of a worker that may use the columns that it does")
	var role string
	require.NoError(t, l.DB.QueryRow(l.Ctx, `SELECT current_user`).Scan(&role))
	for _, right := range []string{"INSERT (params)", "SELECT (error)"} {
		l.Exec(`REVOKE ` + right + ` ON scheduled_tasks FROM ` + role)
		require.False(t, may(l), right)
		l.Exec(`GRANT ` + right + ` ON scheduled_tasks TO ` + role)
		require.True(t, may(l), right)
	}
	full := storetest.On(t, l.URL)
	require.True(t, may(full))
	full.Exec(`ALTER TABLE scheduled_tasks RENAME TO no_tasks`)
	require.False(t, may(full), "an older homeserver")
	require.False(t, may(storetest.OnAs(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded), schema.Worker)))
}

func TestRequestedTask(t *testing.T) {
	t.Parallel()
	l := setup(t)
	task := beside.TaskRequest{ID: jobs.NewID(), Action: scheduledtasks.PurgeRoom, Room: room, Parameters: map[string]any{"force": true}}
	for range 2 { // the second changes nothing
		require.NoError(t, beside.RequestTask(l.Ctx, l.DB, task))
	}
	require.Equal(t, 1, storetest.One[int](l, `
		SELECT count(*) FROM scheduled_tasks
		WHERE id = $1 AND action = 'purge_room' AND status = 'scheduled' AND resource_id = $2 AND params = '{"force":true}' AND result IS NULL
		  AND timestamp BETWEEN extract(epoch FROM clock_timestamp()) * 1000 - 60000 AND extract(epoch FROM clock_timestamp()) * 1000`, task.ID, room))
	require.Equal(t, 1, storetest.One[int](l, `SELECT count(*) FROM scheduled_tasks`))

	for status, ended := range map[string]bool{"scheduled": false, "active": false, "complete": true} {
		l.Exec(`UPDATE scheduled_tasks SET status = $1`, status)
		done, err := beside.TaskEnded(l.Ctx, l.DB, task.ID)
		require.NoError(t, err)
		require.Equal(t, ended, done, status)
	}
	for _, status := range []string{"failed", "cancelled"} {
		l.Exec(`UPDATE scheduled_tasks SET status = $1, error = 'no such luck'`, status)
		_, err := beside.TaskEnded(l.Ctx, l.DB, task.ID)
		require.ErrorIs(t, err, beside.ErrTaskFailed)
		require.ErrorContains(t, err, status+" no such luck")
	}
	_, err := beside.TaskEnded(l.Ctx, l.DB, "unknown")
	require.ErrorIs(t, err, postgres.ErrNotFound)
}

// State groups are left to the homeserver, which checks each once more.
func TestMarkedStateGroups(t *testing.T) {
	t.Parallel()
	p := purge(t, 6)
	p.Exec(`INSERT INTO lethe.state_group_candidates (room_id, state_group, state) VALUES
		($1, 1, 'unused'), ($1, 2, 'shared'), ($1, 3, 'found'), ($1, 4, 'unused'), ($1, 99, 'unused'), ('!other:x', 5, 'unused')`, room)
	p.Exec(`INSERT INTO state_groups_pending_deletion (state_group, insertion_ts) VALUES (4, 7)`)
	mark := func(limit int) (marked int64) {
		require.NoError(t, p.InBatch(p.work, func(b *journal.Batch) (any, error) {
			_, err := b.Run(p.Ctx, []postgres.Statement{beside.MarkStateGroups(room, limit, &marked)})
			return nil, err
		}))
		return marked
	}
	require.EqualValues(t, 3, mark(3))
	require.EqualValues(t, 1, mark(3))
	require.Zero(t, mark(3))
	require.Equal(t, []int64{1, 2, 4}, storetest.All[int64](p.Lab, `SELECT state_group FROM state_groups_pending_deletion ORDER BY 1`), "99 is not there any more")
	require.EqualValues(t, 7, storetest.One[int64](p.Lab, `SELECT insertion_ts FROM state_groups_pending_deletion WHERE state_group = 4`))
	require.Equal(t, []int64{3, 5}, p.candidates(), "not checked yet, and another room's")
}

func TestLowestExtremity(t *testing.T) {
	t.Parallel()
	l := setup(t)
	_, err := beside.LowestExtremity(l.Ctx, l.DB, room)
	require.ErrorIs(t, err, postgres.ErrNotFound)
	l.Chain(room, "a", 9, 0)
	l.Chain("!other:x", "b", 3, 100)
	l.Exec(`INSERT INTO event_forward_extremities VALUES ('$a4', $1)`, room)
	depth, err := beside.LowestExtremity(l.Ctx, l.DB, room)
	require.NoError(t, err)
	require.EqualValues(t, 4, depth)
}
