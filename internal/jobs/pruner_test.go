package jobs

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (p *pulse) number(sql string) (n int) {
	p.t.Helper()
	require.NoError(p.t, p.conn.QueryRow(p.ctx, sql).Scan(&n))
	return n
}

// Two replicas prune all that is old, in transactions of a bounded size.
func TestPruner(t *testing.T) {
	t.Parallel()
	p := setupHeart(t)
	const old, young = 2*pruneBatch + 7, 3
	p.exec(`CREATE SCHEMA aside CREATE TABLE batches (txid bigint, rows bigint)`)
	p.exec(`CREATE FUNCTION aside.count() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO aside.batches SELECT txid_current(), count(*) FROM gone; RETURN NULL; END $$`)
	p.exec(`CREATE TRIGGER count AFTER DELETE ON lethe.jobs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION aside.count()`)
	p.exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, ended_at)
		SELECT translate(lpad(n::text, 16, '0'), '0123456789', 'abcdefghij'), 'purge_history', '!a:x', '{}', 'x', 'complete',
		       now() - CASE WHEN n <= $1::int THEN interval '25 hours' ELSE interval '23 hours' END
		FROM generate_series(1, $1::int + $2::int) n`, old, young)
	p.exec(`
		INSERT INTO lethe.audit (at, who, action, subject)
		SELECT now() - CASE WHEN n <= $1::int THEN interval '25 hours' ELSE interval '23 hours' END, '@a:x', 'hold', n::text
		FROM generate_series(1, $1::int + $2::int) n`, old, young)
	ctx, cancel := context.WithCancel(p.ctx)
	var group sync.WaitGroup
	var rows atomic.Int64
	for range 2 {
		pruner := NewPruner(p.db, 24*time.Hour, p.log, func(n int) { rows.Add(int64(n)) })
		group.Go(func() { pruner.Run(ctx) })
	}
	require.Eventually(t, func() bool {
		return p.number(`SELECT count(*) FROM lethe.jobs`) == young && p.number(`SELECT count(*) FROM lethe.audit`) == young
	}, time.Minute, 10*time.Millisecond)
	cancel()
	group.Wait()
	require.Equal(t, young, p.number(`SELECT count(*) FROM lethe.jobs`))
	require.LessOrEqual(t, p.number(`SELECT max(rows)::int FROM aside.batches`), pruneBatch)
	require.EqualValues(t, old, p.number(`SELECT sum(rows)::int FROM aside.batches`))
	require.EqualValues(t, old, rows.Load())
}
