package observe

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// recorder is a Tracer, and what gives its spans so far, by name.
func recorder(t *testing.T) (*Tracer, func() map[string]tracetest.SpanStub) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	tracer, err := NewTracer(t.Context(), exporter, "lethe worker")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tracer.Close(context.Background())) })
	return tracer, func() map[string]tracetest.SpanStub {
		require.NoError(t, tracer.provider.(*sdktrace.TracerProvider).ForceFlush(context.Background()))
		spans := map[string]tracetest.SpanStub{}
		for _, span := range exporter.GetSpans() {
			spans[span.Name] = span
		}
		return spans
	}
}

const (
	someTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	someSpan   = "00f067aa0ba902b7"
	someParent = "00-" + someTrace + "-" + someSpan + "-01"
)

func TestTraceGoesFromTheRequestToTheBatches(t *testing.T) {
	t.Parallel()
	tracer, spans := recorder(t)
	header := http.Header{"Traceparent": {someParent}, "Tracestate": {"vendor=" + strings.Repeat("x", 200)}}
	ctx, request := tracer.Serve(WithRequestID(t.Context(), "id-1"), header, "POST")
	ctx, submit := StartSpan(ctx, "submit")
	origin := OriginOf(ctx)
	require.Equal(t, "id-1", origin.RequestID)
	require.LessOrEqual(t, len(origin.TraceParent), 64, "what the row takes")
	passed := http.Header{}
	PassOn(ctx, passed)
	require.Equal(t, http.Header{"Traceparent": {origin.TraceParent}}, passed)
	submit.End(nil)
	request.Name("POST /purge")
	request.Set(slog.Int("status", 200))
	request.End(nil)

	// Elsewhere, later.
	ctx, run := tracer.Run(t.Context(), origin, false, "purge_history", slog.String("room", "!\xff:x"), slog.Bool("b", true))
	_, batch := StartSpan(ctx, "batch", slog.Int("n", 7))
	batch.End(errors.New("dial postgres://u:secret@db/x \xff"))
	run.End(nil)
	_, one := tracer.Run(t.Context(), origin, true, "one of many")
	one.End(nil)

	all := spans()
	require.Len(t, all, 5)
	for _, name := range []string{"POST /purge", "submit", "purge_history", "batch"} {
		require.Equal(t, someTrace, all[name].SpanContext.TraceID().String(), name)
	}
	parent := func(name string) trace.SpanID { return all[name].Parent.SpanID() }
	require.Equal(t, someSpan, parent("POST /purge").String())
	require.Equal(t, all["POST /purge"].SpanContext.SpanID(), parent("submit"))
	require.Equal(t, all["submit"].SpanContext.SpanID(), parent("purge_history"))
	require.Equal(t, all["purge_history"].SpanContext.SpanID(), parent("batch"))
	require.Equal(t, codes.Error, all["batch"].Status.Code)
	require.NotContains(t, all["batch"].Status.Description, "secret")
	require.True(t, len(all["batch"].Status.Description) > 0 && strings.ToValidUTF8(all["batch"].Status.Description, "") == all["batch"].Status.Description)
	require.Equal(t, "!�:x", all["purge_history"].Attributes[0].Value.AsString())
	many := all["one of many"]
	require.NotEqual(t, someTrace, many.SpanContext.TraceID().String())
	require.False(t, many.Parent.IsValid())
	require.Equal(t, all["submit"].SpanContext.SpanID(), many.Links[0].SpanContext.SpanID())
	require.Contains(t, many.Resource.String(), "service.name=lethe-worker")
}

// What says of a trace that it is not recorded is heeded, and what is no trace is
// none.
func TestTraceIsNotBegunForWhatIsNone(t *testing.T) {
	t.Parallel()
	tracer, spans := recorder(t)
	for _, parent := range []string{"", "x", "00-" + strings.Repeat("0", 32) + "-" + someSpan + "-01", someParent + strings.Repeat("-", 10_000)} {
		ctx, run := tracer.Run(t.Context(), Origin{TraceParent: parent}, false, "run")
		run.End(nil)
		require.NotEmpty(t, OriginOf(ctx).TraceParent)
		require.False(t, spans()["run"].Parent.IsValid(), parent)
	}
	before := len(spans())
	ctx, run := tracer.Run(t.Context(), Origin{TraceParent: strings.TrimSuffix(someParent, "1") + "0"}, false, "not recorded")
	_, batch := StartSpan(ctx, "not recorded")
	batch.End(nil)
	run.End(nil)
	require.Len(t, spans(), before)
	require.Contains(t, OriginOf(ctx).TraceParent, someTrace, "but the trace goes on")
}

// It is not parallel: what others allocate would count.
func TestNoTracerDoesNothing(t *testing.T) {
	var tracer *Tracer
	header := http.Header{"Traceparent": {someParent}}
	serve, span := tracer.Serve(t.Context(), header, "GET")
	run, _ := tracer.Run(t.Context(), Origin{TraceParent: someParent}, false, "run")
	detached, _ := tracer.Run(t.Context(), Origin{TraceParent: someParent}, true, "run")
	tick, _ := tracer.Begin(t.Context(), "tick")
	span.Name("x")
	span.Set(slog.Int("n", 1))
	span.End(errors.New("failed"))
	for _, ctx := range []context.Context{serve, run, detached, tick} {
		require.Equal(t, Origin{}, OriginOf(ctx), "there is a trace")
		require.Nil(t, ctx.Value(aboutKey{}), "the log has a trace_id")
		PassOn(ctx, nil)
		allocations := testing.AllocsPerRun(100, func() {
			inner, batch := StartSpan(ctx, "batch")
			batch.End(nil)
			if inner != ctx {
				t.Error("there is a span")
			}
		})
		require.Zero(t, allocations, "a job has many batches")
	}
	require.NoError(t, tracer.Close(t.Context()))
}

// stuck is an exporter that takes nothing before it is closed, and heeds no context.
type stuck chan struct{}

func (s stuck) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	<-s
	return nil
}

func (stuck) Shutdown(context.Context) error { return nil }

func TestExporterThatHangsKeepsNobody(t *testing.T) {
	t.Parallel()
	exporter := make(stuck)
	defer close(exporter)
	tracer, err := NewTracer(t.Context(), exporter, "lethe")
	require.NoError(t, err)
	started := time.Now()
	for range 10_000 { // several times what is kept until it is sent
		_, span := tracer.Begin(t.Context(), "span")
		span.End(nil)
	}
	require.Less(t, time.Since(started), flushTimeout)
	started = time.Now()
	require.Error(t, tracer.Close(t.Context()))
	require.Less(t, time.Since(started), 4*flushTimeout)
}

// It is not parallel: the environment and OpenTelemetry's handler of errors are the
// process's.
func TestTracerFromEnvironment(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]struct {
		env  map[string]string
		want string // in the error
	}{
		"nothing":     {},
		"off":         {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}},
		"no exporter": {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}},
		"bad URL":     {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "hunter2:4318"}, want: "OTEL_EXPORTER_OTLP_ENDPOINT: must be http"},
		"bad scheme":  {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "grpc://hunter2:4317"}, want: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: must"},
		"bad protocol": {
			env:  map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
			want: "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			tracer, err := TracerFromEnvironment(t.Context(), log, "lethe")
			require.Nil(t, tracer)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}

	var names atomic.Value
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if r.URL.Path == "/v1/traces" && proto.Unmarshal(body, &request) == nil {
			names.Store(request.ResourceSpans[0].ScopeSpans[0].Spans[0].Name)
		}
	}))
	defer receiver.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.URL)
	tracer, err := TracerFromEnvironment(t.Context(), log, "lethe")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	_, span := tracer.Begin(ctx, "tick")
	span.End(nil)
	cancel()
	require.NoError(t, tracer.Close(ctx), "also when its context has ended")
	require.Equal(t, "tick", names.Load())
	require.NoError(t, tracer.Close(ctx))
}
