package jobs_test

import (
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack"
	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/storetest"
)

// ttl is that of the boards here.
const ttl = time.Hour

// A lab is a Board on servers of its own.
type lab struct {
	*storetest.Lab
	server *devstack.Redis
	redis  redis.UniversalClient
	board  *jobs.Board
}

func setup(t *testing.T) *lab {
	t.Helper()
	l := storetest.On(t, devstacktest.Database(t, "lethe", migrate.Up))
	server := devstacktest.Redis(t)
	client, err := redisdb.Open(server.URL())
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return &lab{l, server, client, jobs.NewBoard(l.DB, client, ttl, slog.New(slog.DiscardHandler))}
}

// queue makes a queued job of a room of its own.
func (l *lab) queue() string {
	l.T.Helper()
	return l.Queue("!" + jobs.NewID() + ":x")
}

// ended makes a job that completed so long ago.
func (l *lab) ended(ago time.Duration) string {
	l.T.Helper()
	id := l.queue()
	require.NoError(l.T, l.Journal.EndJob(l.Ctx, l.Claim(id), journal.Complete, ""))
	l.Exec(`UPDATE lethe.jobs SET ended_at = ended_at - $2::interval WHERE id = $1`, id, ago)
	return id
}

func (l *lab) status(id string) jobs.Status {
	l.T.Helper()
	status, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
	require.NoError(l.T, err)
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
	for state, ended := range map[journal.State]bool{
		journal.Queued: false, journal.Running: false, journal.Held: false, journal.Complete: true, journal.Failed: true, journal.Cancelled: true, "": false,
	} {
		require.Equal(t, ended, state.Ended(), state)
	}
}
