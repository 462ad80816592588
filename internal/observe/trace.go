package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// instrumentation is the name of the library that makes the spans.
const instrumentation = "lethe"

// flushTimeout is the longest time that sending the last spans takes when the
// process ends.
const flushTimeout = 5 * time.Second

// A Tracer begins traces, and continues the traces of other programs. A nil Tracer
// records nothing.
//
// Spans are sent in the background, in batches. Work never waits for them: spans
// that cannot be sent in time are dropped.
type Tracer struct {
	provider   trace.TracerProvider
	propagator propagation.TextMapPropagator // reads the parent of a span
}

// noTracer stands for a nil Tracer. It records nothing, and does not continue
// the traces of other programs either.
var noTracer = &Tracer{provider: noop.NewTracerProvider(), propagator: propagation.NewCompositeTextMapPropagator()}

// orNone returns the Tracer, or noTracer if it is nil.
func (t *Tracer) orNone() *Tracer {
	if t == nil {
		return noTracer
	}
	return t
}

// NewTracer returns a Tracer that sends its spans to the exporter, under the name
// of the service, such as "lethe worker". The caller closes the Tracer, which
// closes the exporter.
//
// OpenTelemetry's own variables set the sampling (OTEL_TRACES_SAMPLER), the batches
// (OTEL_BSP_…) and more attributes of the process (OTEL_RESOURCE_ATTRIBUTES,
// OTEL_SERVICE_NAME).
func NewTracer(ctx context.Context, exporter sdktrace.SpanExporter, service string) (*Tracer, error) {
	attributes := []attribute.KeyValue{attribute.String("service.name", strings.ReplaceAll(service, " ", "-"))}
	if host, err := os.Hostname(); err == nil {
		attributes = append(attributes, attribute.String("service.instance.id", host))
	}
	described, err := resource.New(ctx, resource.WithAttributes(attributes...), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("describe the process for traces: %w", err)
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	return &Tracer{provider: provider, propagator: propagation.TraceContext{}}, nil
}

// TracerFromEnvironment returns the Tracer that OpenTelemetry's variables ask for.
// It sends to OTEL_EXPORTER_OTLP_ENDPOINT, or to
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, by OTLP over HTTP. If neither is set, or with
// OTEL_SDK_DISABLED=true or OTEL_TRACES_EXPORTER=none, the Tracer is nil.
//
// Failures to send are logged to log. This is set for the whole process: the last
// call wins. An error says that a variable cannot be used. It repeats no value.
func TracerFromEnvironment(ctx context.Context, log *slog.Logger, service string) (*Tracer, error) {
	wanted, err := tracesWanted()
	if !wanted || err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx) // it reads the same variables
	if err != nil {
		return nil, fmt.Errorf("make the exporter of traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces not sent", "component", "traces", "error", redact(err.Error()))
	}))
	return NewTracer(ctx, exporter, service)
}

// tracesWanted reports whether the variables ask for traces. It returns an error if
// it cannot use a variable: the library would silently send the traces elsewhere.
func tracesWanted() (bool, error) {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false, nil
	}
	wanted := false
	var errs []error
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		wanted = true
		if u, err := url.Parse(value); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("%s: must be http://host:port or https://host:port", name))
		}
	}
	if !wanted {
		return false, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
		if value := os.Getenv(name); value != "" && value != "http/protobuf" {
			errs = append(errs, fmt.Errorf("%s: must be http/protobuf, which has port 4318 by default", name))
		}
	}
	return true, errors.Join(errs...)
}

// Close sends the remaining spans, for 5 s at most, and stops sending. It does so
// even if the context has ended. Spans that end later are lost. A second call does
// nothing.
func (t *Tracer) Close(ctx context.Context) error {
	provider, sends := t.orNone().provider.(*sdktrace.TracerProvider)
	if !sends {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

// An Origin is the request that created a job. The job's row and its tasks have
// the origin, so that every run of the job continues the same trace.
type Origin struct {
	// TraceParent is the span of the request, in the format of W3C's traceparent
	// header. Empty without a trace.
	TraceParent string

	// RequestID is the id of the request. Empty if there was no request.
	RequestID string
}

// OriginOf returns the origin of jobs that are created under the context.
func OriginOf(ctx context.Context) Origin {
	return Origin{TraceParent: traceParent(ctx), RequestID: RequestID(ctx)}
}

const traceParentHeader = "Traceparent"

// traceParent returns the span of the context in the format of the traceparent
// header, "" without a span. It leaves out tracestate, which can be long.
func traceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.HeaderCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get(traceParentHeader)
}

// withParent returns the context below the span of another program. A text that
// names no span changes nothing.
func (t *Tracer) withParent(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	carrier := propagation.HeaderCarrier{}
	carrier.Set(traceParentHeader, parent)
	return t.propagator.Extract(ctx, carrier)
}

// Serve begins the span of a request, in the trace that its headers name. The
// caller ends the span.
func (t *Tracer) Serve(ctx context.Context, header http.Header, method string) (context.Context, Span) {
	t = t.orNone()
	if parents := header.Values(traceParentHeader); len(parents) == 1 {
		ctx = t.withParent(ctx, parents[0])
	}
	return t.begin(ctx, method, []slog.Attr{slog.String("http.request.method", method), slog.String("request_id", RequestID(ctx))},
		trace.WithSpanKind(trace.SpanKindServer))
}

// PassOn sets the headers of a request so that its receiver continues the trace of
// the context. Without a trace it changes nothing.
func PassOn(ctx context.Context, header http.Header) {
	if parent := traceParent(ctx); parent != "" {
		header.Set(traceParentHeader, parent)
	}
}

// Run begins the span of a job's run, in the trace of its origin. If the origin has
// thousands of jobs, they are detached: each gets a trace of its own, with a link
// to the trace of the origin. The caller ends the span.
func (t *Tracer) Run(ctx context.Context, origin Origin, detached bool, name string, attributes ...slog.Attr) (context.Context, Span) {
	t = t.orNone()
	parented := t.withParent(ctx, origin.TraceParent)
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer)}
	if detached {
		options = append(options, trace.WithNewRoot())
		if link := trace.LinkFromContext(parented); link.SpanContext.IsValid() {
			options = append(options, trace.WithLinks(link))
		}
	} else {
		ctx = parented
	}
	return t.begin(ctx, name, attributes, options...)
}

// Begin begins a span with a trace of its own, for work without a request. The
// caller ends the span.
func (t *Tracer) Begin(ctx context.Context, name string, attributes ...slog.Attr) (context.Context, Span) {
	return t.orNone().begin(ctx, name, attributes, trace.WithNewRoot())
}

func (t *Tracer) begin(ctx context.Context, name string, attributes []slog.Attr, options ...trace.SpanStartOption) (context.Context, Span) {
	ctx, span := t.provider.Tracer(instrumentation).Start(ctx, name, append(options, trace.WithAttributes(converted(attributes)...))...)
	if id := span.SpanContext().TraceID(); id.IsValid() {
		ctx = About(ctx, slog.String("trace_id", id.String()))
	}
	return ctx, Span{span}
}

// StartSpan begins a span below the span of the context. If that span is not
// recorded, or does not exist, the new one is not recorded either. The caller ends
// the span.
func StartSpan(ctx context.Context, name string, attributes ...slog.Attr) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{noop.Span{}} // batches are frequent: this allocates nothing
	}
	ctx, span := parent.TracerProvider().Tracer(instrumentation).Start(ctx, name, trace.WithAttributes(converted(attributes)...))
	return ctx, Span{span}
}

// A Span is a piece of work in a trace. Begin one with a [Tracer] or with
// [StartSpan]; the zero Span is not valid.
type Span struct{ span trace.Span }

// Name changes the name of the span.
func (s Span) Name(name string) { s.span.SetName(name) }

// Set adds attributes to the span. An attribute that the span already has gets the
// new value.
func (s Span) Set(attributes ...slog.Attr) {
	if s.span.IsRecording() {
		s.span.SetAttributes(converted(attributes)...)
	}
}

// End ends the span. With an error, the span shows as failed. A second call does
// nothing.
func (s Span) End(err error) {
	if err != nil && s.span.IsRecording() {
		s.span.SetStatus(codes.Error, strings.ToValidUTF8(redact(err.Error()), "�"))
	}
	s.span.End()
}

// converted returns the attributes as OpenTelemetry's.
func converted(attributes []slog.Attr) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, len(attributes))
	for _, a := range attributes {
		switch value := a.Value.Resolve(); value.Kind() {
		case slog.KindInt64:
			all = append(all, attribute.Int64(a.Key, value.Int64()))
		case slog.KindBool:
			all = append(all, attribute.Bool(a.Key, value.Bool()))
		case slog.KindFloat64:
			all = append(all, attribute.Float64(a.Key, value.Float64()))
		default:
			// A text that is not valid UTF-8 would make the whole batch of spans fail.
			all = append(all, attribute.String(a.Key, strings.ToValidUTF8(value.String(), "�")))
		}
	}
	return all
}
