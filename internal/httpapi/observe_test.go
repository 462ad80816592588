package httpapi_test

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"lethe/internal/httpapi"
	"lethe/internal/observe"
)

func TestRequestIDIsTheCallersIfItIsFit(t *testing.T) {
	t.Parallel()
	passed := make(chan http.Header, 10)
	b := setup(t, httpapi.Options{Homeserver: clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		passed <- r.Header
		_, _ = io.WriteString(w, "{}")
	})})
	ask := func(path, header string) string {
		t.Helper()
		r := b.raw(t, "GET "+path+" HTTP/1.1\nHost: x\nAuthorization: Bearer admin\n"+header+"\n\n")
		require.Len(t, r.header.Values("X-Request-Id"), 1)
		return r.header.Get("X-Request-Id")
	}
	require.Equal(t, "from-outside:1", ask(scheduledTasks, "X-Request-ID: from-outside:1"))
	require.Contains(t, b.log.String(), "request_id=from-outside:1")
	for _, header := range []string{"X-Request-ID: a b", "X-Request-ID: é", "X-Request-ID: a\nX-Request-ID: b", "X: y"} {
		require.Regexp(t, `^[A-Z2-7]{26}$`, ask(scheduledTasks, header), header)
	}

	var seen string
	b.tasks.instead = func(ctx context.Context) error {
		seen = observe.RequestID(ctx)
		return nil
	}
	b.raw(t, "POST /_synapse/admin/v1/purge_history/!room:x/$one HTTP/1.1\nHost: x\nAuthorization: Bearer admin\nX-Request-ID: purge-1\n\n")
	require.Equal(t, "purge-1", seen, "a job is told")

	// The homeserver's log has the same one.
	require.Equal(t, "on-1", ask("/_matrix/client/versions", "X-Request-ID: on-1"))
	require.Equal(t, "on-1", (<-passed).Get("X-Request-Id"))
	id := ask("/_matrix/client/versions", "X-Request-ID: <>")
	require.Equal(t, []string{id}, (<-passed).Values("X-Request-Id"))
}

func TestRequestsAreTraced(t *testing.T) {
	t.Parallel()
	exporter := tracetest.NewInMemoryExporter()
	tracer, err := observe.NewTracer(t.Context(), exporter, "lethe api")
	require.NoError(t, err)
	passed := make(chan string, 1)
	b := setup(t, httpapi.Options{Tracer: tracer, Homeserver: clientOf(t, func(_ http.ResponseWriter, r *http.Request) {
		passed <- r.Header.Get("Traceparent")
	})})
	var origin observe.Origin
	b.tasks.instead = func(ctx context.Context) error {
		origin = observe.OriginOf(ctx)
		return nil
	}
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	const head = " HTTP/1.1\nHost: x\nAuthorization: Bearer admin\nTraceparent: 00-" + id + "-00f067aa0ba902b7-01\n\n"
	b.raw(t, "POST /_synapse/admin/v1/purge_history/!room:x/$one"+head)
	b.raw(t, "GET /_synapse/admin/v1/purge_history_status/broken"+head)
	b.raw(t, "GET /_synapse/admin/v1/purge_history_status/gone"+head)
	b.raw(t, "BREW /_matrix/x"+head)
	require.Contains(t, origin.TraceParent, id)
	require.Contains(t, <-passed, id)
	require.Contains(t, b.log.String(), "status=404")

	spans := map[string]tracetest.SpanStub{}
	var order []string
	require.Eventually(t, func() bool { return len(exporter.GetSpans()) == 4 }, time.Minute, 20*time.Millisecond)
	for _, span := range exporter.GetSpans() {
		require.Equal(t, id, span.SpanContext.TraceID().String())
		order = append(order, span.Name)
		spans[span.Name] = span
	}
	require.Equal(t, []string{
		"POST /_synapse/admin/v1/purge_history/:room_id/:event_id",
		"GET /_synapse/admin/v1/purge_history_status/:purge_id",
		"GET /_synapse/admin/v1/purge_history_status/:purge_id",
		"OTHER passed on",
	}, order)
	require.Equal(t, codes.Unset, spans[order[2]].Status.Code, "a refusal is no failure")
	require.Equal(t, codes.Error, exporter.GetSpans()[1].Status.Code)
	require.Equal(t, "passed on", spans["OTHER passed on"].Attributes[2].Value.AsString())
	require.NoError(t, tracer.Close(t.Context()))
}
