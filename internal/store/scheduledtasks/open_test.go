package scheduledtasks_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/store/storetest"
)

// table is the table as Synapse makes it.
const table = `
	CREATE TABLE public.scheduled_tasks (
		id text PRIMARY KEY, action text NOT NULL, status text NOT NULL, timestamp bigint NOT NULL,
		resource_id text, params text, result text, error text)`

// deletes are the actions that delete a room.
var deletes = []string{scheduledtasks.PurgeRoom, scheduledtasks.DeleteRoom}

func TestOpenTasks(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(table)
	l.Exec(`
		INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id)
		SELECT room, action, status, (extract(epoch FROM clock_timestamp()) * 1000)::bigint + after, room
		FROM (VALUES
			('!active:x',    'shutdown_and_purge_room', 'active',       -5),
			('!stopped:x',   'purge_room',              'active',       -90::bigint * 24 * 3600 * 1000),
			('!due:x',       'purge_room',              'scheduled',    0),
			('!later:x',     'purge_room',              'scheduled',    3600 * 1000),
			('!history:x',   'purge_history',           'active',       0),
			('!complete:x',  'shutdown_and_purge_room', 'complete',     0),
			('!failed:x',    'shutdown_and_purge_room', 'failed',       0),
			('!cancelled:x', 'purge_room',              'cancelled',    0),
			('!other:x',     'redact_all_events',       'active',       0),
			('!odd:x',       'purge_room',              'odd',          0)
		) AS t (room, action, status, after)`)
	queue := scheduledtasks.New(l.DB)
	for room, open := range map[string]bool{
		"!active:x": true, "!stopped:x": true, "!due:x": true, "!later:x": false, "!history:x": false, "!complete:x": false,
		"!failed:x": false, "!cancelled:x": false, "!other:x": false, "!odd:x": false, "!unknown:x": false, "": false, "\x00": false, "\xff": false,
	} {
		task, err := queue.Open(l.Ctx, room, deletes...)
		if !open {
			require.ErrorIs(t, err, postgres.ErrNotFound, "%q", room)
			continue
		}
		require.NoError(t, err, room)
		require.Equal(t, room, task.ID)
		require.Equal(t, room, *task.Resource)
		require.Contains(t, deletes, task.Action)
	}
	task, err := queue.Open(l.Ctx, "!history:x", scheduledtasks.PurgeHistory, scheduledtasks.PurgeRoom)
	require.NoError(t, err)
	require.Equal(t, "purge_history", task.Action)
	_, err = queue.Open(l.Ctx, "!active:x")
	require.ErrorIs(t, err, postgres.ErrNotFound, "no action")
}

// What is to come is open as soon as its time has come, by the server's clock, and no longer
// when it has ended.
func TestOpenTaskOfARoomWithSeveral(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(table)
	l.Exec(`
		INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id) VALUES
			('later', 'purge_room', 'scheduled', 253402300800000, '!r:x'),
			('second', 'purge_room', 'scheduled', 2, '!r:x'),
			('first', 'shutdown_and_purge_room', 'active', 1, '!r:x')`)
	queue := scheduledtasks.New(l.DB)
	for _, id := range []string{"first", "second"} {
		task, err := queue.Open(l.Ctx, "!r:x", deletes...)
		require.NoError(t, err)
		require.Equal(t, id, task.ID)
		l.Exec(`UPDATE scheduled_tasks SET status = 'complete' WHERE id = $1`, id)
	}
	_, err := queue.Open(l.Ctx, "!r:x", deletes...)
	require.ErrorIs(t, err, postgres.ErrNotFound)
	l.Exec(`UPDATE scheduled_tasks SET timestamp = extract(epoch FROM clock_timestamp()) * 1000 WHERE id = 'later'`)
	task, err := queue.Open(l.Ctx, "!r:x", deletes...)
	require.NoError(t, err)
	require.Equal(t, "later", task.ID)
}

// Where Lethe made the tables there is no queue, and a role without the right to read it is
// told so by lethe doctor.
func TestNoQueue(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	requireNone := func(db *postgres.DB) {
		queue := scheduledtasks.New(db)
		_, err := queue.Open(l.Ctx, "!r:x", deletes...)
		require.ErrorIs(t, err, postgres.ErrNotFound)
		_, err = queue.Get(l.Ctx, "first")
		require.ErrorIs(t, err, postgres.ErrNotFound)
		tasks, err := queue.List(l.Ctx, scheduledtasks.Filter{Limit: 10})
		require.NoError(t, err)
		require.Empty(t, tasks)
	}
	requireNone(l.DB)

	l.Exec(table)
	l.Exec(`INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id) VALUES ('first', 'purge_room', 'active', 1, '!r:x')`)
	_, err := scheduledtasks.New(l.DB).Open(l.Ctx, "!r:x", deletes...)
	require.NoError(t, err)
	url := devstacktest.AsPlainRole(t, l.URL)
	l.Exec(`REVOKE ALL ON scheduled_tasks FROM PUBLIC, ` + roleOf(t, url))
	db, err := postgres.Open(l.Ctx, url, postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	requireNone(db)
}

// Nothing here writes.
func TestReadsChangeNothing(t *testing.T) {
	t.Parallel()
	l := storetest.New(t)
	l.Exec(table)
	l.Exec(`INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id) VALUES ('first', 'purge_room', 'active', 1, '!r:x')`)
	queue := scheduledtasks.New(l.DB)
	l.RequireUnchanged(func() {
		_, err := queue.Open(l.Ctx, "!r:x", deletes...)
		require.NoError(t, err)
		task, err := queue.Get(l.Ctx, "first")
		require.NoError(t, err)
		tasks, err := queue.List(l.Ctx, scheduledtasks.Filter{Actions: deletes, Limit: 1})
		require.NoError(t, err)
		require.Equal(t, []scheduledtasks.Task{task}, tasks)
	})
}

// roleOf returns the role that a URL of a database names.
func roleOf(t *testing.T, url string) string {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	return config.User
}
