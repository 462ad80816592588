package httpapi

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEachUserHasSomeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newPageTurns()
		var ends []func()
		take := func(user string) {
			done, err := turns.take(t.Context(), user, false)
			require.NoError(t, err)
			ends = append(ends, done)
		}
		for range maxPages {
			take("@busy:x")
		}
		begun := time.Now()
		_, err := turns.take(t.Context(), "@busy:x", false)
		require.ErrorIs(t, err, errTooManyPages)
		require.Equal(t, turnWait, time.Since(begun))
		take("@other:x") // at once
		require.Equal(t, turnWait, time.Since(begun))

		got := make(chan func())
		go func() {
			done, err := turns.take(t.Context(), "@busy:x", false)
			require.NoError(t, err)
			got <- done
		}()
		synctest.Wait()
		ends[0]()
		ends[0] = <-got

		// Those that wait are bounded too.
		ctx, cancel := context.WithCancel(t.Context())
		for range maxWaitingPages {
			go func() { _, _ = turns.take(ctx, "@busy:x", false) }()
		}
		synctest.Wait()
		begun = time.Now()
		_, err = turns.take(t.Context(), "@busy:x", false)
		require.ErrorIs(t, err, errTooManyPages)
		require.Equal(t, begun, time.Now(), "at once")
		cancel()
		synctest.Wait()
		for _, end := range ends {
			end()
		}
		require.Empty(t, turns.users)
	})
}

// TestFewTurnsHaveAFilter: pages with a filter take only some of a user's turns.
func TestFewTurnsHaveAFilter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newPageTurns()
		var ends []func()
		for range maxFilteredPages {
			done, err := turns.take(t.Context(), "@busy:x", true)
			require.NoError(t, err)
			ends = append(ends, done)
		}
		begun := time.Now()
		_, err := turns.take(t.Context(), "@busy:x", true)
		require.ErrorIs(t, err, errTooManyPages)
		require.Equal(t, turnWait, time.Since(begun))
		for range maxPages - maxFilteredPages {
			done, err := turns.take(t.Context(), "@busy:x", false) // at once
			require.NoError(t, err)
			ends = append(ends, done)
		}
		require.Equal(t, turnWait, time.Since(begun))
		ends[0]()
		ends[0], err = turns.take(t.Context(), "@busy:x", true)
		require.NoError(t, err)
		for _, end := range ends {
			end()
		}
		require.Empty(t, turns.users)
	})
}
