package process

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/config"
	"lethe/internal/devstack/devstacktest"
)

// A worker vacuums what jobs have emptied unless the settings say otherwise. The two
// workers begin at the same time, so what the second has not done when the first has done
// it twice, it does not do.
func TestWorkersVacuumUnlessTheyAreToldNotTo(t *testing.T) {
	t.Parallel()
	redis := devstacktest.Redis(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group errgroup.Group
	var conns []*pgx.Conn
	for _, enabled := range []bool{true, false} {
		settings := newSettings(t)
		settings.Redis.URL, settings.SynapseBeside, settings.Vacuum.Enabled = config.Secret(redis.URL()), "false", enabled
		conn, err := pgx.Connect(t.Context(), string(settings.Database.URL))
		require.NoError(t, err)
		defer func() { _ = conn.Close(context.Background()) }()
		conns = append(conns, conn)
		log, _ := newLog()
		group.Go(func() error { return Run(ctx, settings, log, nil, config.ForWorker) })
	}
	ended := func(id string) {
		for _, conn := range conns {
			_, err := conn.Exec(t.Context(), `
				INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, ended_at, deleted)
				VALUES ($1, 'purge_history', '!a:x', '{}', '@a:x', 'complete', clock_timestamp(), '{"events": 5}')`, id)
			require.NoError(t, err)
		}
	}
	vacuumed := func(conn *pgx.Conn) (ids []string) {
		rows, err := conn.Query(t.Context(), `SELECT id FROM lethe.jobs WHERE vacuum ->> 'state' = 'done' ORDER BY id`)
		require.NoError(t, err)
		ids, err = pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return ids
	}
	for i, id := range []string{"aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"} {
		ended(id)
		require.Eventually(t, func() bool { return len(vacuumed(conns[0])) == i+1 }, time.Minute, 10*time.Millisecond)
	}
	require.Empty(t, vacuumed(conns[1]))
	cancel()
	require.NoError(t, group.Wait())
}
