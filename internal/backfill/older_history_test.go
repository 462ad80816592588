package backfill_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/backfill"
	"lethe/internal/homeserver"
	"lethe/internal/matrix"
	"lethe/internal/messages"
)

// olderHistory returns an OlderHistory that asks the handler.
func olderHistory(t *testing.T, options backfill.Options, handler http.HandlerFunc) *backfill.OlderHistory {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := homeserver.New(server.URL, homeserver.Options{})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return backfill.New(client, options)
}

func tokenAt(topological int64) matrix.PageToken {
	return matrix.NewPageToken(matrix.Token{Topological: topological, Stream: 1})
}

var asker = messages.Reader{UserID: "@u:x", AccessToken: "hush-hush"}

func TestOlderHistoryAsksAsTheReader(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 10)
	h := olderHistory(t, backfill.Options{}, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI + " " + r.Header.Get("Authorization")
		_, _ = fmt.Fprint(w, `{"chunk":[]}`)
	})
	require.NoError(t, h.Backfill(t.Context(), "!r:x", asker, tokenAt(7), 20))
	require.Equal(t, "/_matrix/client/v3/rooms/%21r:x/messages?dir=b&from=t7-1_0_0_0_0_0_0_0_0_0&limit=20 Bearer hush-hush", <-asked)
	service := asker
	service.AppService = true
	require.NoError(t, h.Backfill(t.Context(), "!r:x", service, tokenAt(6), 20))
	require.Contains(t, <-asked, "&user_id=%40u%3Ax ")

	// The same page not again, nor without an access token.
	err := h.Backfill(t.Context(), "!r:x", asker, tokenAt(7), 20)
	require.ErrorIs(t, err, messages.ErrNotAsked)
	require.ErrorContains(t, err, "just now")
	require.ErrorContains(t, h.Backfill(t.Context(), "!r:x", messages.Reader{UserID: "@u:x"}, tokenAt(5), 20), "no access token")
	require.NoError(t, h.Backfill(t.Context(), "!other:x", asker, tokenAt(7), 20))
	require.Len(t, asked, 1)
}

func TestOlderHistoryFails(t *testing.T) {
	t.Parallel()
	h := olderHistory(t, backfill.Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `{"errcode":"M_FORBIDDEN","error":"hush-hush"}`)
	})
	var refusal *homeserver.Error
	err := h.Backfill(t.Context(), "!r:x", asker, tokenAt(1), 1)
	require.ErrorAs(t, err, &refusal)
	require.NotContains(t, err.Error(), "hush-hush")
}

// One at a time asks for a room, the others wait for it; and few ask at all.
func TestOlderHistoryIsAskedForByFew(t *testing.T) {
	t.Parallel()
	arrived, answer := make(chan string, 10), make(chan struct{})
	h := olderHistory(t, backfill.Options{MaxRooms: 2, Timeout: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.URL.Path
		<-answer
		_, _ = fmt.Fprint(w, `{}`)
	})
	var group sync.WaitGroup
	ask := func(room string, depth int64) {
		group.Go(func() {
			if err := h.Backfill(t.Context(), room, asker, tokenAt(depth), 1); err != nil {
				t.Error(err)
			}
		})
	}
	ask("!one:x", 1)
	<-arrived
	ask("!two:x", 1)
	<-arrived
	require.ErrorContains(t, h.Backfill(t.Context(), "!three:x", asker, tokenAt(1), 1), "too many")
	// Others for the same room wait as long as they like.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, h.Backfill(ctx, "!one:x", asker, tokenAt(2), 1), context.Canceled)
	ask("!one:x", 3)
	close(answer)
	group.Wait()
	require.NoError(t, h.Backfill(t.Context(), "!three:x", asker, tokenAt(1), 1), "who was not let ask may ask later")
	require.LessOrEqual(t, len(arrived), 2, "the last one came in time, or asked alone")
}

func TestOlderHistoryIsBounded(t *testing.T) {
	t.Parallel()
	h := olderHistory(t, backfill.Options{Timeout: 50 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	})
	require.ErrorIs(t, h.Backfill(t.Context(), "!r:x", asker, tokenAt(1), 1), context.DeadlineExceeded)
}
