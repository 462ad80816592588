package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/redisdb"
	"lethe/internal/roomgen"
	"lethe/internal/store/beside/besidetest"
)

// A worker that is killed between a batch and the end of its mappings' delay leaves them
// behind. They go all the same, and the state groups are left to the homeserver.
func TestKilledWorkerLeavesNoMappings(t *testing.T) {
	t.Parallel()
	database := devstacktest.Database(t, "beside a homeserver", func(ctx context.Context, url string) error {
		if err := besidetest.Make(ctx, url); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		if err := roomgen.Account(ctx, conn, admin, token, true); err != nil {
			return err
		}
		_, err = roomgen.Generate(ctx, conn, roomgen.Room{ID: large, Server: server, Events: 300})
		return err
	})
	f, purge := demoOn(t, database)
	f.env = append(f.env, "LETHE_SYNAPSE_BESIDE=true", "LETHE_HOMESERVER_REDIS_URL="+f.redis.URL(), "LETHE_WORKER_MAPPING_DELAY=5s")
	client, err := redisdb.Open(f.redis.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	listener := besidetest.Listen(t, database, client, redisdb.HomeserverChannel(server), false)
	f.start("scheduler")
	doomed := f.start("worker", "LETHE_WORKER_BATCH_EVENTS=100")

	orphans := func() int { // mappings whose events are not in the history
		return query[int](f, `SELECT count(*) FROM event_to_state_groups m LEFT JOIN events e ON e.event_id = m.event_id AND NOT e.outlier WHERE e.event_id IS NULL`)
	}
	require.Zero(t, orphans())
	id := f.purge(large, purge)
	f.eventually(time.Minute, func() bool { return f.batches(id) >= 2 }, "purge %s does not begin", id)
	doomed.kill()
	left := orphans()
	require.Positive(t, left, "none is gone yet")
	require.Positive(t, query[int](f, `SELECT count(*) FROM lethe.delayed_mappings WHERE due_at > clock_timestamp()`))

	f.start("worker")
	f.await(time.Minute, id)
	f.eventually(time.Minute, func() bool { return query[int](f, `SELECT count(*) FROM lethe.delayed_mappings`) == 0 }, "mappings wait")
	require.Zero(t, orphans())
	require.Positive(t, query[int](f, `SELECT count(*) FROM state_groups_pending_deletion`))
	require.Zero(t, query[int](f, `SELECT count(*) FROM worker_read_write_locks`))
	require.Equal(t, query[int](f, `SELECT count(*) FROM state_groups g WHERE NOT EXISTS (SELECT FROM event_to_state_groups m WHERE m.state_group = g.id)
		AND NOT EXISTS (SELECT FROM state_groups_pending_deletion p WHERE p.state_group = g.id)
		AND NOT EXISTS (SELECT FROM state_group_edges e WHERE e.prev_state_group = g.id)`), 0, "all that are unused are marked")
	read := map[string]bool{}
	f.eventually(time.Minute, func() bool {
		for _, row := range listener.Read() {
			read[row.Keys[0]] = true
		}
		return read[large]
	}, "the homeserver was not told")
}
