package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/postgres"
)

// setting is the value of a setting of the server in the transaction.
func setting(ctx context.Context, tx *postgres.LazyTx, name string) (value string, err error) {
	err = tx.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value)
	return value, err
}

// A snapshot begins with its first query, which its timeouts bound already. It
// leaves no setting behind on the connection.
func TestSnapshotBeginsWithItsFirstQuery(t *testing.T) {
	t.Parallel()
	db, err := postgres.Open(t.Context(), devstacktest.Database(t, "empty", func(context.Context, string) error { return nil }), postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	settings := map[string]string{
		"transaction_isolation": "repeatable read", "transaction_read_only": "on", "plan_cache_mode": "force_generic_plan",
		"statement_timeout": "20s", "idle_in_transaction_session_timeout": "1min", "jit": "off", "enable_seqscan": "off",
	}
	var first string
	for name := range settings { // each comes first sometimes
		first = name
		break
	}
	require.NoError(t, db.Snapshot(t.Context(), func(ctx context.Context, s *postgres.LazyTx) error {
		got, err := setting(ctx, s, first)
		require.NoError(t, err)
		require.Equal(t, settings[first], got, first)
		for name, want := range settings {
			got, err := setting(ctx, s, name)
			require.NoError(t, err)
			require.Equal(t, want, got, name)
		}
		return nil
	}))

	// One that asks nothing costs nothing, and an error of the reader comes back as it is.
	failure := errors.New("no")
	require.ErrorIs(t, db.Snapshot(t.Context(), func(context.Context, *postgres.LazyTx) error { return failure }), failure)

	// A query that fails ends the picture, and not the connection's use.
	require.Error(t, db.Snapshot(t.Context(), func(ctx context.Context, s *postgres.LazyTx) error {
		_, err := setting(ctx, s, "no.such_setting")
		return err
	}))
	require.NoError(t, db.Ping(t.Context()))
}

// The first query of a snapshot notices a connection that has died in the pool, and
// the snapshot begins again.
func TestSnapshotOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "empty", func(context.Context, string) error { return nil })
	db, err := postgres.Open(t.Context(), url, postgres.Options{MaxConnections: 1})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	require.NoError(t, db.Ping(t.Context()))
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	var ended int
	require.NoError(t, conn.QueryRow(t.Context(), `
		SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&ended))
	require.Positive(t, ended)
	begun := 0
	require.NoError(t, db.Snapshot(t.Context(), func(ctx context.Context, s *postgres.LazyTx) error {
		begun++
		_, err := setting(ctx, s, "statement_timeout")
		return err
	}))
	require.LessOrEqual(t, begun, 2) // once if the pool has looked after a second of rest
}
