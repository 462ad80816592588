package expiring

import (
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func requireValue(t require.TestingT, m *Map[string, int], key string, want int) {
	got, ok := m.Get(key)
	require.True(t, ok, "%s is not there", key)
	require.Equal(t, want, got)
}

func requireAbsent(t require.TestingT, m *Map[string, int], key string) {
	got, ok := m.Get(key)
	require.False(t, ok, "%s is there", key)
	require.Zero(t, got)
}

// requireConsistent holds both views of the entries against each other and against
// the bound.
func requireConsistent(t require.TestingT, m *Map[string, int]) {
	require.LessOrEqual(t, len(m.byKey), m.maxEntries)
	require.Len(t, m.byExpiry, len(m.byKey))
	for i, e := range m.byExpiry {
		require.Equal(t, i, e.index)
		require.Same(t, e, m.byKey[e.key])
	}
}

func TestEntriesExpire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New[string, int](10)
		requireAbsent(t, m, "a")
		m.Put("a", 1, time.Minute)
		m.Put("b", 2, time.Second)
		time.Sleep(time.Second - 1)
		requireValue(t, m, "b", 2)
		time.Sleep(time.Nanosecond)
		requireAbsent(t, m, "b")
		requireValue(t, m, "a", 1)
		time.Sleep(time.Minute - time.Second)
		requireAbsent(t, m, "a")

		// Expired entries go with the next Put of another key.
		m.Put("c", 3, time.Second)
		require.Len(t, m.byKey, 1)
	})
}

func TestPutReplacesValueAndTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New[string, int](10)
		m.Put("a", 1, time.Second)
		m.Put("a", 2, time.Minute)
		time.Sleep(time.Second)
		requireValue(t, m, "a", 2)
		m.Put("a", 3, time.Second)
		time.Sleep(time.Second)
		requireAbsent(t, m, "a")

		m.Put("a", 4, time.Second)
		requireValue(t, m, "a", 4)
		m.Delete("a")
		m.Delete("a")
		requireAbsent(t, m, "a")
		m.Put("a", 5, time.Second)
		m.Put("a", 6, 0)
		requireAbsent(t, m, "a")
		require.Empty(t, m.byKey)
	})
}

func TestAFullMapEvictsWhatExpiresFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := New[string, int](3)
		m.Put("long", 1, time.Hour)
		m.Put("short", 2, time.Minute)
		m.Put("shorter", 3, time.Second)
		m.Put("short", 4, time.Minute) // replaces, so nothing is evicted
		requireValue(t, m, "shorter", 3)
		m.Put("new", 5, time.Millisecond)
		requireAbsent(t, m, "shorter")
		m.Put("newer", 6, time.Millisecond)
		requireAbsent(t, m, "new")
		requireValue(t, m, "short", 4)
		requireValue(t, m, "long", 1)

		// Expired entries are removed before others are evicted.
		time.Sleep(time.Minute)
		m.Put("a", 7, time.Second)
		m.Put("b", 8, time.Second)
		requireValue(t, m, "long", 1)
	})
}

// TestMapAgainstAModel does random things to a map and to a plain map that is
// large enough.
func TestMapAgainstAModel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		withoutDeadline := struct{ rapid.TB }{t} // a bubble has none to ask for
		rapid.Check(withoutDeadline, func(t *rapid.T) {
			type valueUntil struct {
				value int
				until time.Time
			}
			model := map[string]valueUntil{}
			m := New[string, int](rapid.IntRange(1, 8).Draw(t, "bound"))
			key := rapid.StringMatching("[a-f]")
			t.Repeat(map[string]func(*rapid.T){
				"put": func(t *rapid.T) {
					k, v := key.Draw(t, "key"), rapid.Int().Draw(t, "value")
					ttl := time.Duration(rapid.IntRange(1, 20).Draw(t, "ttl"))
					m.Put(k, v, ttl)
					model[k] = valueUntil{v, time.Now().Add(ttl)}
					requireValue(t, m, k, v)
				},
				"delete": func(t *rapid.T) {
					k := key.Draw(t, "key")
					m.Delete(k)
					delete(model, k)
				},
				"pass": func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 10).Draw(t, "time"))) },
				"": func(t *rapid.T) {
					requireConsistent(t, m)
					for _, k := range []string{"a", "b", "c", "d", "e", "f"} {
						want, known := model[k]
						known = known && time.Now().Before(want.until)
						got, ok := m.Get(k)
						require.False(t, ok && !known, "%s should have expired", k)
						require.False(t, known && !ok && m.maxEntries >= 6, "%s was evicted from a map with room", k)
						if ok {
							require.Equal(t, want.value, got)
						}
					}
				},
			})
		})
	})
}

func TestMapIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	m := New[string, int](50)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for i := range 2000 {
				key := strconv.Itoa(i % 100)
				m.Put(key, i, time.Duration(i%7)*time.Microsecond)
				_, _ = m.Get(key)
				m.Delete(strconv.Itoa((i + 50) % 100))
			}
		})
	}
	group.Wait()
	requireConsistent(t, m)
}

func TestAMapNeedsRoom(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { New[string, int](0) })
}
