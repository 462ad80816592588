package tasks

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/brake"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// braked returns a brake that is at the limit of the time of a commit: every commit reaches it.
func (l *lab) braked(soft, hard *float64) *brake.Brake {
	l.T.Helper()
	l.Exec(`INSERT INTO lethe.brake (signal, soft, hard, who) VALUES ('commit_seconds', $1, $2, 'test')`, soft, hard)
	b := brake.New(l.DB, brake.Options{BatchTime: time.Second})
	ctx, cancel := context.WithCancel(l.Ctx)
	var group sync.WaitGroup
	group.Go(func() { b.Watch(ctx) })
	l.T.Cleanup(func() { cancel(); group.Wait() })
	require.Eventually(l.T, func() bool { return b.State().Share < 1 }, time.Minute, 5*time.Millisecond)
	return b
}

// At a soft limit a job works for a part of its time: its batches are shorter.
func TestBrakedJobHasShortBatches(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const events = 300
	l.Chain(room, "a", events, 0)
	l.WatchDeletes(`PERFORM pg_sleep(0.005);`) // the first batch of 200 takes a second or more
	l.noteBatches()
	zero := 0.0
	l.work(WorkerOptions{BatchTime: 2 * time.Second, BatchEvents: 1000, Brake: l.braked(&zero, nil)})
	id := l.submit(room, events)
	require.Equal(t, journal.Complete, l.ends(id).State)
	sizes := l.sizes(phaseEvents)
	require.NotEmpty(t, sizes)
	require.LessOrEqual(t, sizes[0], 100, "a quarter of 2 s is left")
}

// At a hard limit a job does not begin, and says for what it waits. It goes on when the
// limit is lifted.
func TestBrakedJobWaits(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const events = 100
	l.Chain(room, "a", events, 0)
	zero := 0.0
	b := l.braked(nil, &zero)
	l.work(WorkerOptions{Brake: b})
	id := l.submit(room, events)
	require.Eventually(t, func() bool {
		waits := storetest.All[string](l.Lab, `SELECT waits_for FROM lethe.jobs WHERE id = $1 AND waits_for IS NOT NULL`, id)
		return len(waits) == 1 && strings.HasPrefix(waits[0], "brake: a commit took ")
	}, time.Minute, 10*time.Millisecond)
	require.Len(t, l.Timeline(room), events)
	l.Exec(`DELETE FROM lethe.brake`)
	require.Equal(t, journal.Complete, l.ends(id).State)
}
