package jobs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDerivedID(t *testing.T) {
	t.Parallel()
	// Those of a tick must stay the same through all versions, or an upgrade would
	// run a tick again.
	require.Equal(t, "NVvwTmWJfLEPlAQl", DerivedID("retention_sweep", "all-every-1d", "2026-03-01T00:00:00Z"))
	require.NotEqual(t, DerivedID("a", "bc"), DerivedID("ab", "c"))
	seen, used := map[string]bool{}, map[rune]bool{}
	for i := range 2000 {
		id := DerivedID("x", string(rune('A'+i)))
		require.True(t, ValidID(id), id)
		require.False(t, seen[id])
		seen[id] = true
		for _, letter := range id {
			used[letter] = true
		}
	}
	require.Len(t, used, len(letters))
}
