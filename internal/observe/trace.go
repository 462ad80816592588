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
)

// instrumentation is who made the spans.
const instrumentation = "lethe"

// flushTime bounds the sending of the last spans, when the process ends.
const flushTime = 5 * time.Second

// A Tracer begins traces and continues those of others. A nil Tracer begins none:
// each of its methods then costs a comparison.
//
// Spans are sent in the background, in batches. If there are more than can be
// sent, or nobody takes them, they are dropped: nobody ever waits for them.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// NewTracer returns a Tracer whose spans go to the exporter, as those of the named
// service, such as "lethe worker". The caller closes it, which closes the
// exporter.
//
// OpenTelemetry's own variables say how many traces there are
// (OTEL_TRACES_SAMPLER), how they are batched (OTEL_BSP_…) and what else is said
// of the process (OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME).
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
	return &Tracer{provider: provider, tracer: provider.Tracer(instrumentation)}, nil
}

// TracerFromEnvironment returns the Tracer that OpenTelemetry's variables ask for:
// one that sends to OTEL_EXPORTER_OTLP_ENDPOINT, or to
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, by OTLP over HTTP. Without either it is nil,
// and so it is with OTEL_SDK_DISABLED=true and OTEL_TRACES_EXPORTER=none.
//
// What goes wrong with sending is logged to log, for the whole process; the last
// call wins. An error says that a variable cannot be used, and repeats no value.
func TracerFromEnvironment(ctx context.Context, log *slog.Logger, service string) (*Tracer, error) {
	wanted, err := tracesWanted()
	if !wanted || err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx) // which reads the same variables
	if err != nil {
		return nil, fmt.Errorf("make the exporter of traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces not sent", "component", "traces", "error", redact(err.Error()))
	}))
	return NewTracer(ctx, exporter, service)
}

// tracesWanted reports whether traces are to be sent, and whether the variables
// say where in a way that can be understood: the library would send them elsewhere
// and say nothing.
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

// Close sends what is left, for 5 s at most, and ends the sending. Spans that end
// later are lost. A second call does nothing.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last traces: %w", err)
	}
	return nil
}

// An Origin is what made a job: the request, by its id, and the span that it is
// part of. Both are texts that may be empty, and that a job's row and its tasks
// carry, so that whoever runs the job, after whatever losses, continues the trace.
type Origin struct {
	// TraceParent is the span, as W3C's header of that name writes it.
	TraceParent string

	// RequestID is the id of the request.
	RequestID string
}

// OriginOf returns the origin of what is done under the context.
func OriginOf(ctx context.Context) Origin {
	return Origin{TraceParent: traceParent(ctx), RequestID: RequestID(ctx)}
}

const traceParentHeader = "Traceparent"

// traceParent is the context's span, "" if there is none. What others have added
// to a trace for each other is not carried on: it has hardly a bound.
func traceParent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.HeaderCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier.Get(traceParentHeader)
}

// withParent is the context under a span of somebody else's. A text that names
// none changes nothing.
func withParent(ctx context.Context, parent string) context.Context {
	if parent == "" {
		return ctx
	}
	carrier := propagation.HeaderCarrier{}
	carrier.Set(traceParentHeader, parent)
	return propagation.TraceContext{}.Extract(ctx, carrier)
}

// Serve begins the span of a request, in the trace that its headers name. The
// caller ends it.
func (t *Tracer) Serve(ctx context.Context, header http.Header, method string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	parents := header.Values(traceParentHeader)
	if len(parents) == 1 {
		ctx = withParent(ctx, parents[0])
	}
	return t.begin(ctx, method, []slog.Attr{slog.String("http.request.method", method), slog.String("request_id", RequestID(ctx))},
		trace.WithSpanKind(trace.SpanKindServer))
}

// PassOn has the receiver of a request with these headers continue the context's
// trace. Without one it leaves them.
func PassOn(ctx context.Context, header http.Header) {
	if parent := traceParent(ctx); parent != "" {
		header.Set(traceParentHeader, parent)
	}
}

// Run begins the span of a job's run, in the trace of its origin. Where a job is
// one of thousands of the same origin it is detached: it gets a trace of its own,
// with a link to that of its origin. The caller ends the span.
func (t *Tracer) Run(ctx context.Context, origin Origin, detached bool, name string, attributes ...slog.Attr) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	parented := withParent(ctx, origin.TraceParent)
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

// Begin begins a span with a trace of its own, for what nobody has asked for. The
// caller ends it.
func (t *Tracer) Begin(ctx context.Context, name string, attributes ...slog.Attr) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.begin(ctx, name, attributes, trace.WithNewRoot())
}

func (t *Tracer) begin(ctx context.Context, name string, attributes []slog.Attr, options ...trace.SpanStartOption) (context.Context, Span) {
	ctx, span := t.tracer.Start(ctx, name, append(options, trace.WithAttributes(converted(attributes)...))...)
	return About(ctx, slog.String("trace_id", span.SpanContext().TraceID().String())), Span{span}
}

// StartSpan begins a span below that of the context. Where that has none, or one
// that is not recorded, it does nothing. The caller ends the span.
func StartSpan(ctx context.Context, name string, attributes ...slog.Attr) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Span{}
	}
	ctx, span := parent.TracerProvider().Tracer(instrumentation).Start(ctx, name, trace.WithAttributes(converted(attributes)...))
	return ctx, Span{span}
}

// A Span is a piece of work in a trace. The zero Span is in none, and does
// nothing.
type Span struct{ span trace.Span }

// Name gives the span another name.
func (s Span) Name(name string) {
	if s.span != nil {
		s.span.SetName(name)
	}
}

// Set says more about the span's work. Of two attributes of one name the last
// counts.
func (s Span) Set(attributes ...slog.Attr) {
	if s.span != nil && s.span.IsRecording() {
		s.span.SetAttributes(converted(attributes)...)
	}
}

// End ends the span, as one that failed if there is an error. A second call does
// nothing.
func (s Span) End(err error) {
	if s.span == nil {
		return
	}
	if err != nil {
		s.span.SetStatus(codes.Error, strings.ToValidUTF8(redact(err.Error()), "�"))
	}
	s.span.End()
}

// converted are the attributes as OpenTelemetry has them.
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
			// A text that is none would cost all spans that are sent with it.
			all = append(all, attribute.String(a.Key, strings.ToValidUTF8(value.String(), "�")))
		}
	}
	return all
}
