package census_test

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/census"
	"lethe/internal/store/purge"
)

// The table of fates says what the deletes do. A foreign key deletes the rows of the
// other tables that are deleted.
func TestFatesAreThoseOfDeletes(t *testing.T) {
	t.Parallel()
	deleted := purge.RoomTables()
	for name, fate := range census.Fates() {
		switch {
		case slices.Contains(deleted, name):
			require.Equal(t, [2]string{"deletes", ""}, fate, name)
		case fate[0] == "deletes":
			require.Contains(t, purge.UsedTables(), name)
		default:
			require.NotEmpty(t, fate[1], "%s: why does it stay?", name)
		}
	}
}

func TestFatesAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../../docs/what-stays.md")
	require.NoError(t, err)
	for _, row := range census.Rows() {
		require.Contains(t, string(page), row)
	}
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a=keep", "a_1=delete_by_room", "a=delete_by_event", "event_reports=keep", "event_reports=delete_by_event", "event_reports=delete_by_room", "room_reports=keep", "room_reports=delete_by_room"} {
		_, _, err := census.ParseRule(text)
		require.NoError(t, err, text)
	}
	for _, text := range []string{"", "=keep", "a", "a=", "a=Keep", "A=keep", `a"=keep`, "a.b=keep", "events=keep", "a=keep=keep", "room_reports=delete_by_event", "event_reports=forget"} {
		_, _, err := census.ParseRule(text)
		require.Error(t, err, text)
	}
}
