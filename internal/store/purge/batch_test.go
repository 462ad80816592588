package purge_test

import (
	"testing"

	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"

	"github.com/stretchr/testify/require"
)

// A row that another transaction adds to a purged event at the same moment either is
// deleted with it or makes the batch fail, and the next attempt finds it.
func TestRowWiseBatchLeavesNoOrphanToAConcurrentWriter(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "", 3, 0)
	l.Exec(`ALTER TABLE event_search ADD FOREIGN KEY (event_id) REFERENCES events (event_id)`)
	l.Exec(`DELETE FROM event_search`)
	batch := l.Work(room)
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	l.Exec(`INSERT INTO event_search (event_id, room_id) VALUES ('$1', $1)`, room)
	l.Exec(`INSERT INTO event_edges (event_id, prev_event_id) VALUES ('$1', '$0')`)
	failed := make(chan error, 1)
	catalog := purge.Catalog{} // which would refuse the key
	go func() {
		_, err := l.purgeBy(catalog, batch, 3, 9)
		failed <- err
	}()
	l.RequireLockWait()
	require.NoError(t, tx.Commit(l.Ctx))
	err = <-failed
	require.ErrorContains(t, err, "23503")
	require.True(t, postgres.Transient(err))
	require.Equal(t, []string{"$1", "$2", "$3"}, l.Timeline(room))

	_, err = l.purgeBy(catalog, batch, 3, 9)
	require.NoError(t, err)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM event_search`)+storetest.One[int](l.Lab, `SELECT count(*) FROM event_edges WHERE event_id = '$1'`))
}
