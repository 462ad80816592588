package pace

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const aim = 100 * time.Millisecond

func aims() time.Duration { return aim }

func TestSizeFollowsTheTimeOfABatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size int
		done int64
		took time.Duration
		want int
	}{
		{100, 0, aim, 100},
		{100, 0, aim / 2, 200},
		{100, 0, aim / 100, 200}, // it may have found little to do
		{100, 74, aim / 100, 200},
		{100, 75, aim / 100, 800},
		{100, 100, aim / 3, 300},
		{100, 0, 2 * aim, 50},
		{300, 300, 3 * aim, 100},
		{400, 400, time.Hour, 100},
		{100, 100, time.Hour, 50}, // no less
		{900, 0, 0, 1000},         // no more
	} {
		p := New(Options{Time: aims, Most: 1000})
		require.Equal(t, c.want, p.Next(Batch{Work: Events, Planned: c.size, Size: c.size, Done: c.done, Took: c.took}), "%+v", c)
	}
	p := New(Options{Time: aims, Most: 1000})
	require.Equal(t, 200, p.Next(Batch{Work: Users, Planned: 190, Size: 190, Took: time.Millisecond}))
	require.Equal(t, 1, p.Next(Batch{Work: StateGroups, Planned: 1, Size: 1, Took: time.Hour}))

	// After a batch that was given less than planned, the plan stays unless it took too long.
	require.Equal(t, 1000, p.Next(Batch{Work: Events, Planned: 400, Size: 100, Done: 100, Took: aim / 10}))
	require.Equal(t, 400, p.Next(Batch{Work: Events, Planned: 400, Size: 100, Done: 100, Took: aim / 2}))
	require.Equal(t, 400, p.Next(Batch{Work: Events, Planned: 400, Size: 100, Done: 100, Took: aim}))
	require.Equal(t, 200, p.Next(Batch{Work: Events, Planned: 400, Size: 300, Done: 300, Took: aim * 3 / 2}))
}

// The first size is half of what others did in the time of a batch, and the less the
// longer that is ago. Slow batches count at once, and fast ones by and by.
func TestSizeOfTheFirstBatchIsLearned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Time: aims, Most: 5000})
		full := func(done int64, took time.Duration) {
			p.Next(Batch{Work: Events, Planned: int(done), Size: int(done), Done: done, Took: took})
		}
		require.Equal(t, 200, p.First(Events))
		require.Equal(t, 1000, p.First(Rows))
		full(199, time.Microsecond)
		p.Next(Batch{Work: Events, Planned: 4000, Size: 4000, Done: 1000, Took: time.Millisecond})
		require.Equal(t, 200, p.First(Events), "of small batches and of half-empty ones nothing is learned")
		full(4000, aim)
		require.Equal(t, 2000, p.First(Events))
		require.Equal(t, 200, p.First(StateGroups), "one work says nothing of another")
		time.Sleep(halfLife) // of synctest: no real time goes by
		require.Equal(t, 1000, p.First(Events))
		time.Sleep(2 * halfLife) // of synctest
		require.Equal(t, 250, p.First(Events))
		time.Sleep(24 * time.Hour) // of synctest
		require.Equal(t, 200, p.First(Events))

		full(4000, aim)
		full(8000, aim) // a quarter of the way
		require.Equal(t, 2500, p.First(Events))
		full(1000, aim)
		require.Equal(t, 500, p.First(Events))
		full(1_000_000, aim)
		full(1_000_000, aim)
		full(1_000_000, aim)
		require.Equal(t, 5000, p.First(Events))
	})
}

// A process may work on another database than the one before it, or than another in a test.
func TestAPaceKnowsOnlyWhatItWasTold(t *testing.T) {
	t.Parallel()
	one, other := New(Options{Time: aims, Most: 5000}), New(Options{Time: aims, Most: 5000})
	one.Next(Batch{Work: Events, Planned: 4000, Size: 4000, Done: 4000, Took: aim})
	require.Equal(t, 2000, one.First(Events))
	require.Equal(t, 200, other.First(Events))
	require.Equal(t, 200, New(Options{Time: aims, Most: 5000}).First(Events))
}

// While readers wait, a batch is a quarter of what was planned, but never so small that a
// purge does not get on. After 5 s without one it is as planned again.
func TestSizeWhileReadersWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Time: aims, Most: 5000})
		require.Equal(t, 4000, p.Size(Events, "!a:x", 4000))
		p.Crowd("!a:x")
		require.Equal(t, 1000, p.Size(Events, "!a:x", 4000))
		require.Equal(t, 4000, p.Size(Events, "!b:x", 4000), "of another room")
		require.Equal(t, 50, p.Size(Events, "!a:x", 60))
		require.Equal(t, 30, p.Size(Events, "!a:x", 30))
		require.Equal(t, 1, p.Size(StateGroups, "!a:x", 2))
		time.Sleep(calm - time.Millisecond) // of synctest
		p.Crowd("!a:x")
		time.Sleep(calm - time.Millisecond) // of synctest
		require.Equal(t, 1000, p.Size(Events, "!a:x", 4000))
		time.Sleep(time.Millisecond) // of synctest
		require.Equal(t, 4000, p.Size(Events, "!a:x", 4000))
	})
}
