package rowcache

import (
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func at(oldest, next uint64) Moment { return Moment{Server: 1, Oldest: oldest, Next: next} }

func TestAVersionIsTheSameOnlyIfNoOtherTransactionCanHaveItsID(t *testing.T) {
	t.Parallel()
	const lap = 1 << 32
	version := Version{Transaction: 1000, Block: 7, Offset: 3}
	for name, c := range map[string]struct {
		of, other Version
		seen, now Moment
		want      bool
	}{
		"nothing happened":                 {version, version, at(2000, 2001), at(2000, 2001), true},
		"others wrote":                     {version, version, at(2000, 2001), at(5000, 6000), true},
		"it had just begun":                {version, version, at(1001, 1001), at(1001, 1001), true},
		"an older one still ran":           {version, version, at(900, 1001), at(1001, 1001), false},
		"an older one still runs":          {version, version, at(1001, 1001), at(900, 1001), false},
		"another transaction":              {version, Version{1001, 7, 3}, at(2000, 2001), at(2000, 2001), false},
		"another page":                     {version, Version{1000, 8, 3}, at(2000, 2001), at(2000, 2001), false},
		"another place in the page":        {version, Version{1000, 7, 4}, at(2000, 2001), at(2000, 2001), false},
		"the ids have begun again since":   {version, version, at(2000, 2001), at(lap+1000, lap+1001), false},
		"they are about to":                {version, version, at(2000, 2001), at(lap+999, lap+1000), true},
		"frozen, and now once more":        {version, version, at(lap+999, lap+999), at(lap+1001, lap+1001), false},
		"frozen, and once more before":     {version, version, at(lap+1001, lap+1001), at(lap+999, lap+999), false},
		"frozen, and long after":           {version, version, at(5*lap+2000, 5*lap+2000), at(5*lap+9000, 5*lap+9000), true},
		"more than all ids":                {version, version, at(2000, 2001), at(9*lap+1, 9*lap+2), false},
		"another server":                   {version, version, at(2000, 2001), Moment{Server: 2, Oldest: 2000, Next: 2001}, false},
		"after a crash":                    {version, version, at(2000, 2001), Moment{Server: 1, Recovered: 1, Oldest: 2000, Next: 2001}, false},
		"of which nothing is known":        {Version{2, 7, 3}, Version{2, 7, 3}, at(2000, 2001), at(2000, 2001), false},
		"none":                             {Version{}, Version{}, at(2000, 2001), at(2000, 2001), false},
		"a window across the end of a lap": {version, version, at(lap-10, lap-5), at(lap+500, lap+500), true},
		"and over it":                      {version, version, at(lap-10, lap-5), at(lap+1500, lap+1500), false},
	} {
		require.Equal(t, c.want, c.of.same(c.other, c.seen, c.now), name)
		require.Equal(t, c.want, c.other.same(c.of, c.now, c.seen), "%s, the other way round", name)
	}
}

// TestNoChangeIsMissed draws histories of a row on a server whose ids of transactions have
// three bits of the 32 that are told apart: snapshots of any moment look at it, and keep
// what it says.
func TestNoChangeIsMissed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		// Ids are multiplied, so that eight transactions are a whole lap.
		const step = 1 << 29
		type write struct {
			by    uint64
			place uint16
		}
		var states []struct {
			moment Moment
			row    write
			text   int
		}
		next, running, row := uint64(8), map[uint64]bool{}, write{by: 8}
		text := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				if len(running) < 3 {
					next++
					running[next] = true
				}
			case 1, 2: // one of those that run writes the row, or not, and ends
				for _, id := range []uint64{next, next - 1, next - 2, next - 3} {
					if running[id] && rapid.Bool().Draw(t, "ends") {
						delete(running, id)
						if rapid.Bool().Draw(t, "writes") {
							text++
							row = write{id, uint16(rapid.IntRange(1, 2).Draw(t, "place"))}
						}
						break
					}
				}
			}
			oldest := next + 1
			for id := range running {
				oldest = min(oldest, id)
			}
			states = append(states, struct {
				moment Moment
				row    write
				text   int
			}{at(oldest*step, (next+1)*step), row, text})
		}
		rows := NewRows[string, int](NewBudget(1 << 20))
		for range rapid.IntRange(1, 100).Draw(t, "readers") {
			s := states[rapid.IntRange(0, len(states)-1).Draw(t, "moment")]
			version := Version{Transaction: uint32(s.row.by*step) + firstTransaction, Offset: s.row.place}
			moment := s.moment
			moment.Oldest += firstTransaction
			moment.Next += firstTransaction
			if kept, ok := rows.Get("row", version, moment); ok {
				require.Equal(t, s.text, kept)
			} else {
				rows.Put("row", s.text, version, moment, 1)
			}
		}
	})
}

// TestABudgetIsNeverExceeded compares two Rows of one budget with a list of what was used:
// what was used least recently is forgotten first, whichever of them has it.
func TestABudgetIsNeverExceeded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const entry = entryBytes + 100
		budget := NewBudget(maxShare * entry)
		texts, numbers := NewRows[string, int](budget), NewRows[int, int](budget)
		now := at(100, 100)
		type key struct {
			text   bool
			number int
		}
		var order []key // the least recently used first
		used := func(k key) {
			for i := range order {
				if order[i] == k {
					order = append(order[:i], order[i+1:]...)
					break
				}
			}
			order = append(order, k)
		}
		evicted := uint64(0)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			k := key{rapid.Bool().Draw(t, "text"), rapid.IntRange(0, 99).Draw(t, "number")}
			version := Version{Transaction: uint32(10 + k.number)}
			name := strings.Repeat("x", k.number)
			if rapid.Bool().Draw(t, "put") {
				if k.text {
					texts.Put(name, k.number, version, now, 100)
				} else {
					numbers.Put(k.number, k.number, version, now, 100)
				}
				if used(k); len(order) > maxShare {
					order = order[1:]
					evicted++
				}
			} else {
				var value int
				var ok bool
				if k.text {
					value, ok = texts.Get(name, version, now)
				} else {
					value, ok = numbers.Get(k.number, version, now)
				}
				want := false
				for i := range order {
					want = want || order[i] == k
				}
				require.Equal(t, want, ok)
				if ok {
					require.Equal(t, k.number, value)
					used(k)
				}
			}
			require.Equal(t, int64(len(order)*entry), budget.Taken())
			require.Equal(t, budget.Taken(), texts.Stats().Bytes+numbers.Stats().Bytes)
			require.Equal(t, evicted, texts.Stats().Evictions+numbers.Stats().Evictions)
		}
	})
}

func TestWhatIsTooLargeIsNotKept(t *testing.T) {
	t.Parallel()
	budget := NewBudget(maxShare * 1000)
	rows := NewRows[string, int](budget)
	version, now := Version{Transaction: 9}, at(100, 100)
	rows.Put("a", 1, version, now, 1000-entryBytes)
	rows.Put("b", 2, version, now, 1001-entryBytes)
	_, ok := rows.Get("b", version, now)
	require.False(t, ok)
	value, ok := rows.Get("a", version, now)
	require.True(t, ok)
	require.Equal(t, 1, value)

	// Nor is what it replaces, which is of another version.
	rows.Put("a", 3, Version{Transaction: 10}, now, 1001-entryBytes)
	_, ok = rows.Peek("a")
	require.False(t, ok)
	require.Zero(t, budget.Taken())
	require.Equal(t, Stats{Hits: 1, Misses: 1}, rows.Stats())
}

func TestAValueOfAnOldVersionIsForgotten(t *testing.T) {
	t.Parallel()
	budget := NewBudget(maxShare * 1000)
	rows := NewRows[string, int](budget)
	rows.Put("a", 1, Version{Transaction: 150}, at(200, 200), 1)
	// A snapshot from before that version says nothing against it.
	_, ok := rows.Get("a", Version{Transaction: 9}, at(100, 100))
	require.False(t, ok)
	value, ok := rows.Peek("a")
	require.True(t, ok)
	require.Equal(t, 1, value)

	// The row is gone.
	_, ok = rows.Get("a", Version{}, at(300, 300))
	require.False(t, ok)
	_, ok = rows.Peek("a")
	require.False(t, ok)
	require.Zero(t, budget.Taken())
}

func TestNothingIsKeptWithoutRows(t *testing.T) {
	t.Parallel()
	var rows *Rows[string, int]
	rows.Put("a", 1, Version{Transaction: 9}, at(100, 100), 1)
	_, ok := rows.Get("a", Version{Transaction: 9}, at(100, 100))
	require.False(t, ok)
	_, ok = rows.Peek("a")
	require.False(t, ok)
	require.Zero(t, rows.Stats())

	none := NewRows[string, int](NewBudget(0))
	none.Put("a", 1, Version{Transaction: 9}, at(100, 100), 1)
	_, ok = none.Get("a", Version{Transaction: 9}, at(100, 100))
	require.False(t, ok)
}

// TestEntriesTakeNoMoreThanTheyAreCounted fills a budget with small entries, of which the
// entry itself is the largest part. It runs alone.
func TestEntriesTakeNoMoreThanTheyAreCounted(t *testing.T) { //nolint:paralleltest // it looks at the memory of the process
	const size = 16 << 20
	held := func() int64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	before := held()
	rows := NewRows[string, []byte](NewBudget(size))
	for i := range uint32(200_000) {
		key := string(append([]byte("$0123456789012345678901234567890123456789"), byte(i), byte(i>>8), byte(i>>16)))
		value := make([]byte, 48)
		rows.Put(key, value, Version{Transaction: 10}, at(100, 100), cap(value)+len(key))
	}
	taken := held() - before
	require.Greater(t, rows.Stats().Evictions, uint64(100_000))
	require.Less(t, taken, int64(size)*11/10)
	runtime.KeepAlive(rows)
}

func TestRowsServeSeveralAtOnce(t *testing.T) {
	t.Parallel()
	budget := NewBudget(maxShare * 400)
	texts, numbers := NewRows[string, uint32](budget), NewRows[uint32, uint32](budget)
	var group sync.WaitGroup
	for g := range uint32(8) {
		group.Go(func() {
			for i := range uint32(3000) {
				n := (i*7 + g) % 100
				version := Version{Transaction: 10 + n}
				now := at(1000+uint64(i), 1000+uint64(i))
				if value, ok := texts.Get(string(rune('a'+n)), version, now); ok && value != n {
					panic("another's value")
				}
				texts.Put(string(rune('a'+n)), n, version, now, 50)
				if value, ok := numbers.Get(n, version, now); ok && value != n {
					panic("another's value")
				}
				numbers.Put(n, n, version, now, 50)
			}
		})
	}
	group.Wait()
	require.LessOrEqual(t, budget.Taken(), int64(maxShare*400))
}

func TestHintsRememberPlaces(t *testing.T) {
	t.Parallel()
	hints := NewHints()
	require.False(t, hints.Marked("!r:x", 0))
	hints.Mark("!r:x", 7)
	require.True(t, hints.Marked("!r:x", 7))
	require.False(t, hints.Marked("!r:x", 8))
	require.False(t, hints.Marked("!s:x", 7))
}
