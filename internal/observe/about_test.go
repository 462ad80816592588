package observe

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLinesSayWhatTheyAreAbout(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := NewLogger(&out, "info", "text")
	line := func(log *slog.Logger, ctx context.Context, args ...any) string {
		t.Helper()
		out.Reset()
		log.InfoContext(ctx, "m", args...)
		_, text, _ := strings.Cut(out.String(), "msg=m")
		return strings.TrimSpace(text)
	}
	ctx := About(t.Context(), slog.String("job", "a"), slog.String("kind", "k"))
	require.Empty(t, line(log, t.Context()))
	require.Equal(t, "x=1 job=a kind=k", line(log, ctx, "x", 1))
	require.Equal(t, "job=b kind=k", line(log, ctx, "job", "b"), "no name twice")
	require.Equal(t, "job=c kind=k", line(log.With("job", "c"), ctx), "nor one of the logger's")
	require.Equal(t, "kind=k job=b room=r", line(log, About(ctx, slog.String("job", "b"), slog.String("room", "r"))))
	require.Equal(t, "job=a kind=k", line(log, ctx), "a context that was added to stays")
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sent []string
		kept bool
	}{
		"none":      {},
		"empty":     {sent: []string{""}},
		"uuid":      {sent: []string{"f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}, kept: true},
		"all signs": {sent: []string{"aZ09._:-"}, kept: true},
		"longest":   {sent: []string{strings.Repeat("x", 64)}, kept: true},
		"too long":  {sent: []string{strings.Repeat("x", 65)}},
		"two":       {sent: []string{"a", "b"}},
		"space":     {sent: []string{"a b"}},
		"line":      {sent: []string{"a\nlevel=ERROR"}},
		"quote":     {sent: []string{`a"`}},
		"accent":    {sent: []string{"é"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := RequestIDOf(http.Header{RequestIDHeader: c.sent})
			if c.kept {
				require.Equal(t, c.sent[0], id)
				return
			}
			require.NotContains(t, c.sent, id)
			require.True(t, ValidRequestID(id))
			require.NotEqual(t, id, RequestIDOf(nil), "a new one each time")
		})
	}
	require.Empty(t, RequestID(t.Context()))
	require.Equal(t, "a", RequestID(WithRequestID(t.Context(), "a")))
}
