package schedule

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/redisdb"
)

// beats lets the scheduler beat until the returned function is called.
func (o *town) beats(s *Scheduler, board *Board, name string) (stop func()) {
	ctx, cancel := context.WithCancel(o.Ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Beat(ctx, board, name)
	}()
	return func() { cancel(); <-ended }
}

func (o *town) replicas(board *Board) (names []string) {
	o.T.Helper()
	replicas, err := board.Replicas(o.Ctx)
	require.NoError(o.T, err)
	for _, replica := range replicas {
		names = append(names, replica.Name)
	}
	return names
}

func TestSchedulersAreSeen(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	board, other := NewBoard(o.redis, redisdb.NamesOf("aaaa")), NewBoard(o.redis, redisdb.NamesOf("bbbb"))
	require.Empty(t, o.replicas(board))
	stopOne := o.beats(o.replica(every(t, "hourly", time.Hour)), board, "b:1")
	stopTwo := o.beats(o.replica(), board, "a:1")
	require.Eventually(t, func() bool { return len(o.replicas(board)) == 2 }, time.Minute, 10*time.Millisecond)
	replicas, err := board.Replicas(o.Ctx)
	require.NoError(t, err)
	require.Equal(t, "a:1", replicas[0].Name)
	require.Equal(t, []Entry{}, replicas[0].Schedules)
	require.Equal(t, []Entry{{Name: "hourly", Kind: "retention_sweep", When: "1h"}}, replicas[1].Schedules)
	require.WithinDuration(t, time.Now(), replicas[1].Started, time.Minute)
	require.Empty(t, o.replicas(other), "those of another deployment")
	ttl := o.redis.TTL(o.Ctx, redisdb.NamesOf("aaaa").Schedulers()).Val()
	require.Greater(t, ttl, beatKeep)
	require.LessOrEqual(t, ttl, 2*beatKeep)

	// One that stops is forgotten at once, and one that was killed when its entry is old.
	stopOne()
	require.Equal(t, []string{"a:1"}, o.replicas(board))
	old, err := json.Marshal(Replica{At: time.Now().Add(-beatKeep - time.Second)})
	require.NoError(t, err)
	require.NoError(t, o.redis.HSet(o.Ctx, redisdb.NamesOf("aaaa").Schedulers(), "dead:1", old, "odd:1", "{").Err())
	require.Equal(t, []string{"a:1"}, o.replicas(board))
	require.EqualValues(t, 1, o.redis.HLen(o.Ctx, redisdb.NamesOf("aaaa").Schedulers()).Val())
	stopTwo()
	require.Empty(t, o.replicas(board))
}

func TestSchedulerBeatsWithoutRedis(t *testing.T) {
	t.Parallel()
	o := setupTown(t)
	o.server.Kill()
	board := NewBoard(o.redis, nil)
	_, err := board.Replicas(o.Ctx)
	require.Error(t, err)
	stop := o.beats(o.replica(), board, "a:1")
	require.Eventually(t, func() bool { return len(o.logged.take()) > 0 }, time.Minute, 10*time.Millisecond)
	stop()
}
