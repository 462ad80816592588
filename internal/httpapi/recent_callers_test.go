package httpapi

import (
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/messages"
)

func TestRecentCallers(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	recent := newRecentCallers()
	recent.now = func() time.Time { return now }
	asked, refusal := 0, error(nil)
	of := recent.before(func(_ *http.Request, token string) (messages.Reader, error) {
		asked++
		return messages.Reader{UserID: "@" + token}, refusal
	})
	judged := func(token string, want int) {
		t.Helper()
		reader, err := of(nil, token)
		require.NoError(t, err)
		require.Equal(t, "@"+token, reader.UserID)
		require.Equal(t, want, asked)
	}
	judged("a", 1)
	judged("b", 2)
	judged("a", 2)
	now = now.Add(callerKept - 1)
	judged("a", 2)
	now = now.Add(1)
	judged("a", 3)

	// A refusal is never remembered, and is heard when what was known is too old.
	refusal = errors.New("logged out")
	now = now.Add(callerKept)
	for range 2 {
		_, err := of(nil, "a")
		require.ErrorIs(t, err, refusal)
	}
	require.Equal(t, 5, asked)

	refusal = nil
	for i := range 3 * mostCallers {
		_, err := of(nil, strconv.Itoa(i))
		require.NoError(t, err)
		require.LessOrEqual(t, len(recent.byToken), mostCallers)
	}
}
