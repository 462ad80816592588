package postgres_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
)

// The error of a transaction that gave up the wait for a lock names the session that has
// the lock.
func TestLockErrorNamesTheSession(t *testing.T) {
	t.Parallel()
	url := devstacktest.EmptyDatabase(t)
	db, err := postgres.Open(t.Context(), url, postgres.Options{})
	require.NoError(t, err)
	defer db.Close()
	_, err = db.Exec(t.Context(), `CREATE TABLE public.rows AS SELECT 1 AS n`)
	require.NoError(t, err)
	config, err := pgx.ParseConfig(url)
	require.NoError(t, err)
	config.RuntimeParams["application_name"] = "psql"
	other, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer func() { _ = other.Close(t.Context()) }()
	_, err = other.Exec(t.Context(), `BEGIN; DELETE FROM public.rows`)
	require.NoError(t, err)

	tx := db.LazyTx(nil)
	_, err = tx.Exec(t.Context(), `DELETE FROM rows`)
	tx.Rollback(t.Context())
	require.True(t, postgres.IsLocked(err), "%v", err)
	var locked *postgres.LockError
	require.ErrorAs(t, tx.Locked(err), &locked)
	require.Regexp(t, fmt.Sprintf(`^waiting: a lock of pid %d of role %s \(psql\), idle in transaction since 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$`,
		other.PgConn().PID(), config.User), locked.WaitsFor())
	require.ErrorIs(t, locked, err)

	unrelated := errors.New("another error")
	require.Equal(t, unrelated, tx.Locked(unrelated))

	// A later transaction does not name an earlier one's session.
	_, err = tx.Exec(t.Context(), `SET LOCAL lock_timeout = '10ms'`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `DELETE FROM rows`)
	tx.Rollback(t.Context())
	require.ErrorAs(t, tx.Locked(err), &locked)
	require.Equal(t, "waiting: a lock of another transaction", locked.WaitsFor())
}
