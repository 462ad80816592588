package jobs_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/redisdb"
	"lethe/internal/store/journal"
)

// names are those of no deployment.
var names *redisdb.Names

func TestStatusIsServedFromRedis(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, want := range []jobs.Status{
		{State: journal.Queued},
		{State: journal.Running, Progress: `{"at":1}`},
		{State: journal.Complete, Progress: `{"at":2}`},
		{State: journal.Failed, Error: "why: \x00 \xff 忘れる\n"},
	} {
		want.ID, want.Kind, want.Room, want.Generation = jobs.NewID(), jobs.PurgeHistory, "!{r}:x", 3
		l.board.Post(l.Ctx, want)
		require.Equal(t, want, l.status(want.ID), "which has no row")
		require.InDelta(t, ttl, l.redis.PTTL(l.Ctx, names.JobStatus(want.ID)).Val(), float64(time.Minute))
	}
}

func TestStatusIsNeverOlderThanTenSeconds(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.queue()
	run := l.Claim(id)
	require.Equal(t, journal.Running, l.status(id).State)
	require.NoError(t, l.Journal.EndJob(l.Ctx, run, journal.Failed, "why"))
	key := names.JobStatus(id)
	for _, age := range []time.Duration{0, 9 * time.Second, 10 * time.Second} {
		now, err := l.redis.Time(l.Ctx).Result()
		require.NoError(t, err)
		require.NoError(t, l.redis.HSet(l.Ctx, key, "posted", now.Add(-age).UnixMilli()).Err())
		status := l.status(id)
		if age < 9*time.Second {
			require.Equal(t, journal.Running, status.State)
		}
		if age >= 10*time.Second {
			require.Equal(t, journal.Failed, status.State)
			require.Equal(t, "why", status.Error)
		}
	}
	require.Equal(t, "failed", l.redis.HGet(l.Ctx, key, "state").Val(), "and is posted for the next")
}

func TestStatusNeverGoesBack(t *testing.T) {
	t.Parallel()
	l := setup(t)
	type post struct {
		generation int
		state      journal.State
	}
	for _, c := range []struct{ first, then, want post }{
		{post{1, journal.Queued}, post{1, journal.Running}, post{1, journal.Running}},
		{post{1, journal.Running}, post{1, journal.Queued}, post{1, journal.Queued}}, // a yield
		{post{1, journal.Running}, post{2, journal.Queued}, post{2, journal.Queued}},
		{post{2, journal.Queued}, post{1, journal.Running}, post{2, journal.Queued}},
		{post{10, journal.Queued}, post{9, journal.Complete}, post{10, journal.Queued}}, // as numbers
		{post{1, journal.Complete}, post{1, journal.Running}, post{1, journal.Complete}},
		{post{1, journal.Failed}, post{2, journal.Queued}, post{2, journal.Queued}}, // a retry
		{post{2, journal.Cancelled}, post{1, journal.Complete}, post{2, journal.Cancelled}},
		{post{1, journal.Failed}, post{1, journal.Complete}, post{1, journal.Failed}},
		{post{1, journal.Cancelled}, post{1, journal.Failed}, post{1, journal.Cancelled}},
	} {
		status := jobs.Status{ID: jobs.NewID(), Kind: jobs.PurgeHistory}
		for _, p := range []post{c.first, c.then} {
			status.Generation, status.State = p.generation, p.state
			l.board.Post(l.Ctx, status)
		}
		got := l.status(status.ID)
		require.Equal(t, c.want, post{got.Generation, got.State}, c)
	}
}

func TestStatusThatRedisLostIsSeededAgainForWhatIsLeft(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.ended(40 * time.Minute)
	for range 2 {
		require.Equal(t, journal.Complete, l.status(id).State)
		require.InDelta(t, 20*time.Minute, l.redis.PTTL(l.Ctx, names.JobStatus(id)).Val(), float64(time.Minute))
		require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	}
	unended := l.queue()
	l.Exec(`UPDATE lethe.jobs SET created_at = created_at - interval '1 year' WHERE id = $1`, unended)
	require.Equal(t, journal.Queued, l.status(unended).State)
	require.InDelta(t, ttl, l.redis.PTTL(l.Ctx, names.JobStatus(unended)).Val(), float64(time.Minute))
}

func TestExpiredOrUnknownStatusIsNotFound(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, id := range []string{
		l.ended(ttl), l.ended(1000 * ttl), jobs.NewID(),
		"", "short", strings.Repeat("a", 15), strings.Repeat("a", 17), "abcdefghijklmno1", "abcdefghijklmno\n", "abcdefghijklmn\x00o",
		"abcdefghijklmné", "\xff\xfe", "{abcdefghijklmn}", "*", "'; DROP TABLE --", strings.Repeat("a", 1<<20),
	} {
		_, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
		require.ErrorIs(t, err, jobs.ErrNotFound, "%.20q", id)
	}
	require.Zero(t, l.redis.DBSize(l.Ctx).Val(), "nothing is kept for them")
}

func TestStatusOfAnotherKindIsNotFound(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.queue()
	for range 2 { // from the row, and from Redis
		_, err := l.board.Status(l.Ctx, "delete_room", id)
		require.ErrorIs(t, err, jobs.ErrNotFound)
		require.Equal(t, id, l.status(id).ID)
	}
}

func TestStatusThatRedisHasSpoiledIsTheRows(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for name, spoil := range map[string]func(key string) error{
		"no generation":  func(key string) error { return l.redis.HDel(l.Ctx, key, "generation").Err() },
		"odd generation": func(key string) error { return l.redis.HSet(l.Ctx, key, "generation", "x").Err() },
		"no time":        func(key string) error { return l.redis.HDel(l.Ctx, key, "posted").Err() },
		"another type":   func(key string) error { return l.redis.Set(l.Ctx, key, "x", 0).Err() },
	} {
		id := l.queue()
		want := l.status(id)
		require.NoError(t, spoil(names.JobStatus(id)), name)
		require.Equal(t, want, l.status(id), name)
	}
}

func TestStatusWithoutRedisIsTheRowsInTime(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.ended(time.Minute)
	const most = 5 * time.Second // one look and one post, on a busy machine
	failed := map[string]int{}
	l.board.OnFailure(func(operation string) { failed[operation]++ })
	inTime := func(what string) {
		started := time.Now()
		require.Equal(t, journal.Complete, l.status(id).State, what)
		l.board.Post(l.Ctx, jobs.Status{ID: id})
		require.Less(t, time.Since(started), most, what)
		_, err := l.board.Status(l.Ctx, jobs.PurgeHistory, jobs.NewID())
		require.ErrorIs(t, err, jobs.ErrNotFound, what)
	}
	require.NoError(t, l.server.Pause())
	inTime("paused")
	require.NoError(t, l.server.Resume())
	require.Equal(t, map[string]int{"read": 2, "post": 2}, failed)
	l.server.Kill()
	inTime("gone")
}

func TestStatusWithoutBothIsAnError(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.queue()
	l.Exec(`ALTER TABLE lethe.jobs RENAME TO hidden`)
	_, err := l.board.Status(l.Ctx, jobs.PurgeHistory, id)
	require.ErrorContains(t, err, fmt.Sprintf("job %s", id))
	require.NotErrorIs(t, err, jobs.ErrNotFound)
}
