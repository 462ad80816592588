package access

import (
	"errors"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/messages"
)

func TestRecentCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recent := newRecentCallers()
		asked, refusal := 0, error(nil)
		of := recent.before(func(_ *http.Request, token string) (messages.Reader, error) {
			asked++
			return messages.Reader{UserID: "@" + token}, refusal
		})
		requireAsked := func(token string, want int) {
			t.Helper()
			reader, err := of(nil, token)
			require.NoError(t, err)
			require.Equal(t, "@"+token, reader.UserID)
			require.Equal(t, want, asked)
		}
		requireAsked("a", 1)
		requireAsked("b", 2)
		requireAsked("a", 2)
		time.Sleep(recentTTL - 1)
		requireAsked("a", 2)
		time.Sleep(time.Nanosecond)
		requireAsked("a", 3)

		// A refusal is never remembered, and is heard when what was known is too old.
		refusal = errors.New("logged out")
		time.Sleep(recentTTL)
		for range 2 {
			_, err := of(nil, "a")
			require.ErrorIs(t, err, refusal)
		}
		require.Equal(t, 5, asked)

		// No more than maxRecent are remembered: the first ones are asked about again.
		refusal = nil
		for i := range 3 * maxRecent {
			requireAsked(strconv.Itoa(i), 6+i)
		}
		requireAsked("0", 6+3*maxRecent)
		requireAsked(strconv.Itoa(3*maxRecent-1), 6+3*maxRecent)
	})
}
