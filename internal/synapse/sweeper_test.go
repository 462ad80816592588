package synapse

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/beside"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/storetest"
)

// sweep sweeps until the test has ended.
func (l *lab) sweep() {
	l.T.Helper()
	s := l.synapse(Options{})
	ctx, cancel := context.WithCancel(l.Ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Sweep(ctx)
	}()
	l.T.Cleanup(func() {
		cancel()
		<-done
	})
}

// A receipt that a transaction of the homeserver has locked holds up no mappings.
func TestSweeperWaitsForNoReceipt(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 2, 0)
	l.Work(room)
	l.Exec(`DELETE FROM event_edges`)
	for _, table := range []string{"event_json", "event_search", "events"} {
		l.Exec(`DELETE FROM ` + table + ` WHERE event_id = '$a1'`)
	}
	l.Exec(`INSERT INTO receipts_linearized (stream_id, room_id, receipt_type, user_id, event_id, data) VALUES (1, $1, 'm.read', '@u:x', '$a1', '{}')`, room)
	l.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($1, '{}', true, 'infinity')`, room)
	l.Exec(`BEGIN`)
	l.Exec(`SELECT FROM receipts_linearized FOR UPDATE`)
	l.sweep()
	other := storetest.OnAs(t, l.URL, "worker")
	l.eventually(func() bool {
		return storetest.One[int](other, `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE receipts_linearized%'`) > 0
	})
	other.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($1, '{$a1}', true, now())`, room)
	l.eventually(func() bool {
		return storetest.One[int](other, `SELECT count(*) FROM event_to_state_groups WHERE event_id = '$a1'`) == 0
	})
	l.Exec(`COMMIT`)
}

// Locks that nothing renews are deleted although mappings cannot be.
func TestSweeperReapsLocksInAnyCase(t *testing.T) {
	t.Parallel()
	l := setup(t)
	_, err := besidetest.NewLocks(t, l.URL).Read(string(beside.NewEventLock), room)
	require.NoError(t, err)
	l.Exec(`UPDATE worker_read_write_locks SET last_renewed_ts = 5`)
	l.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'made to fail'; END $$`)
	l.Exec(`CREATE TRIGGER refuse BEFORE DELETE ON lethe.delayed_mappings FOR EACH ROW EXECUTE FUNCTION public.refuse()`)
	l.Work(room)
	l.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($1, '{$a1}', true, now())`, room)
	l.sweep()
	l.eventually(func() bool { return l.locks() == 0 })
}
