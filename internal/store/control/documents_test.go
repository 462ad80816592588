package control_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/store/journal"
)

// The statement of docs/operating.md that cancels all jobs works in every state.
func TestStatementOfTheDocumentsCancelsEveryJob(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/operating.md")
	require.NoError(t, err)
	statements := regexp.MustCompile(`(?s)    UPDATE lethe\.jobs SET state = 'cancelled'.*?;`).FindAllString(string(text), -1)
	require.Len(t, statements, 1)
	l := setup(t)
	ids := map[string]journal.State{}
	for i, state := range journal.States() {
		ids[l.in(state, "!"+string(rune('a'+i))+":x")] = state
	}
	l.Exec(strings.TrimSpace(statements[0]))
	for id, before := range ids {
		want := journal.Cancelled
		if before.Ended() {
			want = before
		}
		require.Equal(t, want, l.Job(id).State, before)
	}
}
