package jobs_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/redisdb"
)

// ttl is that of the boards here.
const ttl = time.Hour

// A lab is a Board on servers of its own.
type lab struct {
	t      *testing.T
	ctx    context.Context
	conn   *pgx.Conn
	store  *store.Store
	server *devstack.Redis
	redis  redis.UniversalClient
	board  *jobs.Board
}

func setup(t *testing.T) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	url := devstacktest.Database(t, "lethe", store.Migrate)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	db, err := store.Open(ctx, url, store.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	server := devstacktest.Redis(t)
	client, err := redisdb.Open(server.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return &lab{t, ctx, conn, db, server, client, jobs.NewBoard(db, client, ttl, slog.New(slog.DiscardHandler))}
}

func (l *lab) exec(sql string, args ...any) {
	l.t.Helper()
	_, err := l.conn.Exec(l.ctx, sql, args...)
	require.NoError(l.t, err)
}

func (l *lab) queue() string {
	l.t.Helper()
	id := jobs.NewID()
	require.NoError(l.t, l.store.InsertJob(l.ctx, store.Job{
		ID: id, Kind: string(jobs.PurgeHistory), Room: "!" + id + ":x", Parameters: json.RawMessage(`{}`), Requester: "@admin:x",
	}, false))
	return id
}

func (l *lab) claim(id string) store.Run {
	l.t.Helper()
	job, err := l.store.ClaimJob(l.ctx, id, 1, jobs.HeartbeatStale, 0)
	require.NoError(l.t, err)
	return store.Run{JobID: id, Generation: job.Generation, Attempt: job.Attempt}
}

// ended makes a job that completed so long ago.
func (l *lab) ended(ago time.Duration) string {
	l.t.Helper()
	id := l.queue()
	require.NoError(l.t, l.store.EndJob(l.ctx, l.claim(id), store.JobComplete, ""))
	l.exec(`UPDATE lethe.jobs SET ended_at = ended_at - $2::interval WHERE id = $1`, id, ago)
	return id
}

func (l *lab) status(id string) jobs.Status {
	l.t.Helper()
	status, err := l.board.Status(l.ctx, jobs.PurgeHistory, id)
	require.NoError(l.t, err)
	return status
}

func TestNewIDIsOfRandomLetters(t *testing.T) {
	t.Parallel()
	const n, letters = 20_000, 52
	seen := map[string]bool{}
	count := map[rune]float64{}
	for range n {
		id := jobs.NewID()
		require.Regexp(t, `^[A-Za-z]{16}$`, id)
		require.False(t, seen[id])
		seen[id] = true
		for _, letter := range id {
			count[letter]++
		}
	}
	require.Len(t, count, letters)
	const expected = n * 16 / letters
	for letter, got := range count {
		// Seven standard deviations; a plain modulo would be off by a fifth.
		require.InDelta(t, expected, got, 7*math.Sqrt(expected), string(letter))
	}
}

func TestEndedStates(t *testing.T) {
	t.Parallel()
	for state, ended := range map[jobs.State]bool{
		jobs.Queued: false, jobs.Running: false, jobs.Held: false, jobs.Complete: true, jobs.Failed: true, jobs.Cancelled: true, "": false,
	} {
		require.Equal(t, ended, state.Ended(), state)
	}
}
