package beside_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/store/beside"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// invalidate writes an invalidation in the transaction.
func invalidate(l *storetest.Lab, tx pgx.Tx, room string) (id int64, err error) {
	for _, s := range beside.Invalidate(beside.PurgedHistory, room, &id) {
		if s.Row == nil {
			_, err = tx.Exec(l.Ctx, s.SQL, s.Args...)
		} else {
			err = s.Row(tx.QueryRow(l.Ctx, s.SQL, s.Args...))
		}
		if err != nil {
			return 0, err
		}
	}
	return id, nil
}

func TestInvalidationsRow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	work := l.Work(room)
	var id int64
	before := storetest.One[int64](l, `SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint`)
	require.NoError(t, l.InBatch(work, func(b *journal.Batch) (any, error) {
		_, err := b.Run(l.Ctx, beside.Invalidate(beside.DeletedRoom, "!it's:x", &id))
		return nil, err
	}))
	var row struct {
		ID       int64
		Name, Fn string
		Keys     []string
		TS       int64
	}
	require.NoError(t, l.Conn.QueryRow(l.Ctx, `SELECT * FROM cache_invalidation_stream_by_instance`).
		Scan(&row.ID, &row.Name, &row.Fn, &row.Keys, &row.TS))
	require.Equal(t, id, row.ID)
	require.Equal(t, "lethe", row.Name)
	require.Equal(t, "dr_cache_fake", row.Fn)
	require.Equal(t, []string{"!it's:x"}, row.Keys, "a row without keys would stop the homeserver's stream")
	require.InDelta(t, before, row.TS, 60_000)
	position, err := beside.NextPosition(l.Ctx, l.DB)
	require.NoError(t, err)
	require.Greater(t, position, id)
}

// A process that has read an id never looks for a lower one. So an id that is taken
// holds up every other until it is committed.
func TestIDsAreCommittedInTheirOrder(t *testing.T) {
	t.Parallel()
	l := setup(t)
	first := begin(l)
	id, err := invalidate(l, first, room)
	require.NoError(t, err)

	type taken struct{ second, position int64 }
	next := async(t, func() (taken, error) {
		position, err := beside.NextPosition(l.Ctx, l.DB)
		return taken{position: position}, err
	})
	l.RequireLockWait()
	second := begin(l)
	other := async(t, func() (taken, error) {
		id, err := invalidate(l, second, "!other:x")
		return taken{second: id}, err
	})
	require.Eventually(t, func() bool {
		return storetest.One[int](l, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())`) == 2
	}, time.Minute, 5*time.Millisecond)
	require.Zero(t, storetest.One[int](l, `SELECT count(*) FROM cache_invalidation_stream_by_instance`))
	require.NoError(t, first.Commit(l.Ctx))

	position, err := next()
	require.NoError(t, err)
	written, err := other()
	require.NoError(t, err)
	require.Greater(t, position.position, id)
	require.Greater(t, written.second, id)
	require.NoError(t, second.Commit(l.Ctx))
}

// What must not be older than the wait for others runs after it.
func TestStatementsUnderTheStreamsLock(t *testing.T) {
	t.Parallel()
	var order []string
	for _, s := range beside.Invalidate(beside.PurgedHistory, room, new(int64), postgres.Statement{What: "between"}) {
		order = append(order, s.What)
	}
	require.Equal(t, []string{"lock the stream of invalidations", "between", "invalidate the homeserver's caches"}, order)
}
