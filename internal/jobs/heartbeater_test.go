package jobs

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
)

// A pulse is a Heartbeater and its database.
type pulse struct {
	*Heartbeater
	t    *testing.T
	ctx  context.Context
	conn *pgx.Conn
	db   *postgres.DB
}

func setupHeart(t *testing.T) *pulse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	url := devstacktest.Database(t, "lethe", migrate.Up)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	db, err := postgres.Open(ctx, url, postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return &pulse{NewHeartbeater(db, slog.New(slog.DiscardHandler)), t, ctx, conn, db}
}

// run makes a running job whose heartbeat is an hour old.
func (p *pulse) run() journal.Run {
	p.t.Helper()
	id := NewID()
	require.NoError(p.t, p.journal.InsertJob(p.ctx, journal.Job{
		ID: id, Kind: PurgeHistory, Room: id, Parameters: json.RawMessage(`{}`), Requester: "@admin:x",
	}, false))
	job, err := p.journal.ClaimJob(p.ctx, id, 1, time.Minute, 0)
	require.NoError(p.t, err)
	p.exec(`UPDATE lethe.jobs SET heartbeat_at = heartbeat_at - interval '1 hour' WHERE id = $1`, id)
	return journal.Run{JobID: id, Generation: job.Generation, Attempt: job.Attempt}
}

func (p *pulse) exec(sql string, args ...any) {
	p.t.Helper()
	_, err := p.conn.Exec(p.ctx, sql, args...)
	require.NoError(p.t, err)
}

func (p *pulse) alive(run journal.Run) (alive bool) {
	p.t.Helper()
	require.NoError(p.t, p.conn.QueryRow(p.ctx,
		`SELECT heartbeat_at > now() - interval '30 minutes' FROM lethe.jobs WHERE id = $1`, run.JobID).Scan(&alive))
	return alive
}

func TestHeartbeaterKeepsRunsAliveAndEndsLostOnes(t *testing.T) {
	t.Parallel()
	p := setupHeart(t)
	var posts [3]atomic.Int32
	post := func(i int) func(context.Context) { return func(context.Context) { posts[i].Add(1) } }
	mine, lost, stopped := p.run(), p.run(), p.run()
	mineCtx, stop := p.Watch(p.ctx, mine, post(0))
	defer stop()
	lostCtx, stopLost := p.Watch(p.ctx, lost, post(1))
	defer stopLost()
	stoppedCtx, stopStopped := p.Watch(p.ctx, stopped, post(2))
	stopStopped()
	stopStopped()
	require.Error(t, stoppedCtx.Err())
	_, err := p.journal.ClaimJob(p.ctx, lost.JobID, 1, time.Minute, 0)
	require.NoError(t, err)

	for beat := range int32(2) {
		p.beat(p.ctx)
		require.Equal(t, beat+1, posts[0].Load())
	}
	require.NoError(t, mineCtx.Err())
	require.True(t, p.alive(mine))
	require.ErrorIs(t, context.Cause(lostCtx), journal.ErrSuperseded)
	require.Zero(t, posts[1].Load(), "a lost run says nothing")
	require.False(t, p.alive(stopped))
	require.Zero(t, posts[2].Load())
}

func TestHeartbeaterSurvivesADatabaseError(t *testing.T) {
	t.Parallel()
	p := setupHeart(t)
	run := p.run()
	ctx, stop := p.Watch(p.ctx, run, func(context.Context) {})
	defer stop()
	p.exec(`ALTER TABLE lethe.jobs RENAME TO hidden`)
	p.beat(p.ctx)
	require.NoError(t, ctx.Err(), "what was not asked is not lost")
	p.exec(`ALTER TABLE lethe.hidden RENAME TO jobs`)
	p.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.Eventually(t, func() bool { p.beat(p.ctx); return p.alive(run) }, time.Minute, 10*time.Millisecond)
	require.NoError(t, ctx.Err())
}

func TestHeartbeaterDoesNotWaitForALockedRow(t *testing.T) {
	t.Parallel()
	p := setupHeart(t)
	run := p.run()
	ctx, stop := p.Watch(p.ctx, run, func(context.Context) {})
	defer stop()
	tx, err := p.conn.Begin(p.ctx)
	require.NoError(t, err)
	p.exec(`SELECT FROM lethe.jobs FOR UPDATE`)
	started := time.Now()
	p.beat(p.ctx)
	require.Less(t, time.Since(started), HeartbeatStale, "or the run would be taken for dead")
	require.NoError(t, ctx.Err())
	require.NoError(t, tx.Rollback(p.ctx))
	p.beat(p.ctx)
	require.True(t, p.alive(run))
}

func TestHeartbeaterRunsUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	p := setupHeart(t)
	run := p.run()
	ctx, cancel := context.WithCancel(p.ctx)
	var group sync.WaitGroup
	group.Go(func() { p.Run(ctx) })
	beaten := make(chan struct{}, 1000)
	_, stop := p.Watch(p.ctx, run, func(context.Context) { beaten <- struct{}{} })
	defer stop()
	<-beaten
	<-beaten
	require.True(t, p.alive(run))
	cancel()
	group.Wait()
}
