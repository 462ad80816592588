package devstack_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
)

// A standby has what it has received before the crash of its server, and takes its place.
func TestStandbyIsPromoted(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	first, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, first.Close()) })
	conn := connect(t, first.URL("postgres"))
	_, err = conn.Exec(ctx, `CREATE TABLE t AS SELECT 1 AS n`)
	require.NoError(t, err)
	standby, err := first.StartStandby(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, standby.Close()) })
	_, err = connect(t, standby.URL("postgres")).Exec(ctx, `INSERT INTO t VALUES (0)`)
	require.ErrorContains(t, err, "25006", "it is read only")

	_, err = conn.Exec(ctx, `INSERT INTO t VALUES (2)`)
	require.NoError(t, err)
	follower := connect(t, standby.URL("postgres"))
	require.Eventually(t, func() bool {
		var sum int
		return follower.QueryRow(ctx, `SELECT sum(n) FROM t`).Scan(&sum) == nil && sum == 3
	}, time.Minute, 10*time.Millisecond, "the standby does not follow")
	require.NoError(t, first.Crash(ctx))
	require.NoError(t, conn.Close(ctx))
	require.NoError(t, standby.Promote(ctx))
	require.Error(t, standby.Promote(ctx), "it is promoted")
	var sum int
	require.NoError(t, connect(t, standby.URL("postgres")).QueryRow(ctx, `INSERT INTO t VALUES (4) RETURNING n`).Scan(&sum))
	require.NoError(t, connect(t, standby.URL("postgres")).QueryRow(ctx, `SELECT sum(n) FROM t`).Scan(&sum))
	require.Equal(t, 7, sum)
}
