package synapse

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/beside"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/migrate"
	"lethe/internal/store/storetest"
)

// requireWaiting fails the test unless a job must wait for the reason.
func requireWaiting(t *testing.T, s *Synapse, reason string) {
	t.Helper()
	_, err := s.Ready(t.Context())
	var waits *Waiting
	require.ErrorAs(t, err, &waits)
	require.Contains(t, waits.Reason, reason)
}

func requireReady(t *testing.T, s *Synapse, want Way) {
	t.Helper()
	way, err := s.Ready(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, way)
}

// noTasks takes the right to request tasks away.
func (l *lab) noTasks() {
	l.T.Helper()
	l.Exec(`REVOKE INSERT ON scheduled_tasks FROM ` + l.role())
}

func (l *lab) role() string {
	var role string
	require.NoError(l.T, l.DB.QueryRow(l.Ctx, `SELECT current_user`).Scan(&role))
	return role
}

func TestHomeserverThatIsSaidNotToRun(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.synapse(Options{Mode: Stopped})
	require.False(t, s.Beside())
	requireReady(t, s, Nothing)
	end := besidetest.Sessions(t, l.URL)
	requireWaiting(t, s, "synapse_beside says that no Synapse runs, but the role lethe has 2 sessions that are not Lethe's")
	end()
	l.eventually(func() bool {
		way, err := s.Ready(l.Ctx)
		return err == nil && way == Nothing
	})
	l.Exec(`INSERT INTO worker_locks VALUES ('a', 'b', 'abcde', 'c', extract(epoch FROM now()) * 1000)`)
	requireWaiting(t, s, "1 of its locks is fresh")
	l.Exec(`DELETE FROM worker_locks`)

	alive := errors.New("refused")
	s.options.Alive = func(context.Context) error { return alive }
	requireReady(t, s, Nothing)
	alive = nil
	requireReady(t, s, Nothing) // an answer may be 5 s old
	s.askAgain = s.askAgain.Add(-aliveAge)
	requireWaiting(t, s, "the homeserver answers at homeserver.url")
}

// An address that swallows every question must not slow down every batch.
func TestHomeserverThatAnswersSlowly(t *testing.T) {
	t.Parallel()
	s := New(nil, Options{Alive: func(context.Context) error { return errors.New("refused") }})
	require.False(t, s.answers(t.Context()))
	require.WithinDuration(t, time.Now().Add(aliveAge), s.askAgain, time.Second)

	s = New(nil, Options{Alive: func(ctx context.Context) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}})
	require.False(t, s.answers(t.Context()))
	require.WithinDuration(t, time.Now().Add(alivePause*aliveTime), s.askAgain, 2*time.Second)
	asked := time.Now()
	require.False(t, s.answers(t.Context()))
	require.Less(t, time.Since(asked), aliveTime)
}

// A block is told even if the database could not be reached when the process began.
func TestInvalidationFindsTheHomeserver(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := New(l.DB, Options{})
	ended, cancel := context.WithCancel(l.Ctx)
	cancel()
	_, err := s.Invalidation(ended, beside.BlockedRoom, "!r:x")
	require.ErrorIs(t, err, context.Canceled)
	told, err := s.Invalidation(l.Ctx, beside.BlockedRoom, "!r:x")
	require.NoError(t, err)
	require.NotEmpty(t, told.Statements())

	l = setup(t)
	l.Exec(`DROP TABLE worker_read_write_locks, worker_read_write_locks_mode`)
	told, err = New(l.DB, Options{}).Invalidation(l.Ctx, beside.BlockedRoom, "!r:x")
	require.NoError(t, err, "it blocks nonetheless")
	require.Empty(t, told.Statements())
}

func TestHomeserverWithoutRedis(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s, runs := l.synapse(Options{}), l.synapse(Options{Mode: Runs})
	require.True(t, s.Beside())
	l.Exec(`GRANT INSERT, SELECT ON scheduled_tasks TO ` + l.role())
	requireReady(t, s, ByTask)
	s.tasks, runs.tasks = nil, nil
	l.noTasks()
	l.Exec(`REVOKE INSERT (id, action, status, timestamp, resource_id, params) ON scheduled_tasks FROM ` + l.role())
	requireReady(t, s, Nothing)
	requireWaiting(t, runs, "there is no way to tell it of purges")
	end := besidetest.Sessions(t, l.URL)
	requireWaiting(t, s, "let Lethe's role INSERT into scheduled_tasks")
	requireWaiting(t, runs, "there is no way to tell it of purges")
	l.Exec(`GRANT INSERT ON scheduled_tasks TO ` + l.role())
	requireReady(t, s, ByTask)
	requireReady(t, runs, ByTask)
	end()
	s.Tell(l.Ctx, 5, true) // does nothing
}

// The rights that lethe doctor prints for a worker suffice.
func TestRightsOfAWorkerSufficeForTasks(t *testing.T) {
	t.Parallel()
	requireReady(t, setup(t).synapse(Options{}), ByTask)
}

func TestDatabaseOfLethesOwn(t *testing.T) {
	t.Parallel()
	l := storetest.OnAs(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded), schema.Worker)
	s := New(l.DB, Options{Mode: Runs})
	requireReady(t, s, Nothing) // before Find
	require.NoError(t, s.Find(l.Ctx))
	require.False(t, s.Beside())
	besidetest.Sessions(t, l.URL)
	requireReady(t, s, Nothing)
	present, why, err := s.Present(l.Ctx)
	require.NoError(t, err)
	require.False(t, present)
	require.Contains(t, why, "Lethe made the tables")

	var none *Synapse
	require.False(t, none.Beside())
	requireReady(t, none, Nothing)
	none.Tell(l.Ctx, 5, true)
}

func TestHomeserversThatAreNotSupported(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`DROP TABLE worker_read_write_locks, worker_read_write_locks_mode`)
	s := New(l.DB, Options{})
	require.ErrorIs(t, s.Find(l.Ctx), ErrTooOld)
	require.False(t, s.Beside())
	require.NoError(t, New(l.DB, Options{Mode: Stopped}).Find(l.Ctx))

	l = setup(t)
	l.Chain(room, "a", 5, 0)
	l.Exec(`DELETE FROM state_groups`)
	for _, mode := range []Mode{Auto, Runs, Stopped} {
		require.ErrorIs(t, New(l.DB, Options{Mode: mode}).Find(l.Ctx), ErrStateElsewhere)
	}
}

// A homeserver that was heard runs, even if the database does not show it.
func TestHomeserverThatWasHeard(t *testing.T) {
	t.Parallel()
	l := setup(t)
	s := l.told(Options{})
	l.run(s)
	requireReady(t, s, ByStream)
	present, _, err := s.Present(l.Ctx)
	require.NoError(t, err)
	require.False(t, present)
	l.redis.Publish(l.Ctx, "x", "RDATA events master 7 []")
	l.eventually(func() bool {
		present, why, err := s.Present(l.Ctx)
		return err == nil && present && why == "it was heard at homeserver.redis_url"
	})
	requireReady(t, s, ByStream)
}
