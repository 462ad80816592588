package beside_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const room = storetest.Room

// waitTime bounds the wait for what happens outside of a test, and poll is the pause
// between two looks.
const (
	waitTime = time.Minute
	poll     = 5 * time.Millisecond
)

// setup returns a Lab on a database that Synapse could have made, whose DB is a
// worker's.
func setup(t *testing.T) *storetest.Lab {
	t.Helper()
	return storetest.OnAs(t, besidetest.Database(t), schema.Worker)
}

// connect returns another session, which does not count as a homeserver's.
func connect(l *storetest.Lab) *pgx.Conn {
	l.T.Helper()
	config, err := pgx.ParseConfig(l.URL)
	require.NoError(l.T, err)
	config.RuntimeParams["application_name"] = "psql"
	conn, err := pgx.ConnectConfig(l.Ctx, config)
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(l.Ctx, `SET search_path = public`)
	require.NoError(l.T, err)
	return conn
}

// begin begins a transaction in another session, which is rolled back when the test ends.
func begin(l *storetest.Lab) pgx.Tx {
	l.T.Helper()
	tx, err := connect(l).Begin(l.Ctx)
	require.NoError(l.T, err)
	l.T.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	return tx
}

// async runs do, and returns a function that waits for its end.
func async[T any](t *testing.T, do func() (T, error)) (result func() (T, error)) {
	t.Helper()
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := do()
		done <- outcome{value, err}
	}()
	return func() (T, error) {
		t.Helper()
		select {
		case o := <-done:
			return o.value, o.err
		case <-time.After(time.Minute):
			require.FailNow(t, "it does not end")
			panic("unreachable")
		}
	}
}
