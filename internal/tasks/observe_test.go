package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/store/journal"
)

// written is what was logged.
type written struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *written) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(line)
}

// lines are the lines of JSON so far.
func (w *written) lines(t *testing.T) []map[string]any {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []map[string]any
	for decoder := json.NewDecoder(bytes.NewReader(w.text.Bytes())); decoder.More(); {
		var line map[string]any
		require.NoError(t, decoder.Decode(&line))
		lines = append(lines, line)
	}
	return lines
}

// value is what a counter or gauge shows.
func value(t *testing.T, metric prometheus.Metric) float64 {
	t.Helper()
	var shown dto.Metric
	require.NoError(t, metric.Write(&shown))
	return shown.GetCounter().GetValue() + shown.GetGauge().GetValue()
}

// A job's trace goes from the request to its batches, also when asynq has lost its
// task and its worker has vanished meanwhile, and each line of it says which job it
// is.
func TestJobIsFollowedFromRequestToBatches(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 9)
	var out written
	l.log = observe.NewLogger(&out, "debug", "json")
	l.board = jobs.NewBoard(l.DB, l.redis, time.Hour, l.log)
	exporter := tracetest.NewInMemoryExporter()
	tracer, err := observe.NewTracer(l.Ctx, exporter, "lethe")
	require.NoError(t, err)

	ctx := observe.WithRequestID(l.Ctx, "request-1")
	ctx, request := tracer.Serve(ctx, http.Header{}, "POST")
	id, err := l.client.SubmitPurgeHistory(ctx, purgeOf(room, 6))
	require.NoError(t, err)
	request.End(nil)

	// Its worker vanishes, and Redis forgets everything.
	_, err = l.Journal.ClaimJob(l.Ctx, id, 1, time.Hour, 0)
	require.NoError(t, err)
	l.Exec(`UPDATE lethe.jobs SET heartbeat_at = clock_timestamp() - interval '1 min'`)
	require.NoError(t, l.redis.FlushAll(l.Ctx).Err())
	require.NoError(t, dispatch.NewReconciler(l.ofScheduler, l.redis, l.board, l.log, l.metrics).Check(l.Ctx))
	require.Equal(t, 2, l.Job(id).Generation)
	l.failing("40P01", 1)
	stop := l.work(WorkerOptions{BatchEvents: 2, Tracer: tracer})
	require.Equal(t, journal.Complete, l.ends(id).State)
	stop()
	require.NoError(t, l.redis.Close()) // a status that is not posted is logged
	l.board.Post(observe.About(l.Ctx, about(l.Job(id))...), jobs.StatusOf(l.Job(id)))

	var spans tracetest.SpanStubs
	require.Eventually(t, func() bool { // it sends in the background
		spans = exporter.GetSpans()
		return len(spans) > 0 && spans[len(spans)-1].Name == string(jobs.PurgeHistory)
	}, time.Minute, 50*time.Millisecond)
	names := map[string]int{}
	for _, span := range spans {
		require.Equal(t, spans[0].SpanContext.TraceID(), span.SpanContext.TraceID(), span.Name)
		names[span.Name]++
	}
	// Three batches of events, and the one that failed.
	require.Equal(t, map[string]int{"POST": 1, "submit purge_history": 1, "purge_history": 1, "lock room": 4, "batch": 4}, names)
	require.NoError(t, tracer.Close(l.Ctx))

	seen := map[any]bool{}
	for _, line := range out.lines(t) {
		if line["component"] != nil || line["msg"] == "heartbeats not written" {
			continue
		}
		seen[line["msg"]] = true
		require.Equal(t, []any{id, room, "purge_history"}, []any{line["job"], line["room"], line["kind"]}, "%v", line)
		if line["msg"] == "job ended" {
			require.Equal(t, "request-1", line["request_id"])
			require.Equal(t, spans[0].SpanContext.TraceID().String(), line["trace_id"])
		}
	}
	for _, message := range []string{"job runs", "batch failed: it will be tried again", "job ended", "status not posted to Redis"} {
		require.True(t, seen[message], "%s: %v", message, seen)
	}
}

// A sweep's purges are too many for one trace, so each has its own.
func TestSweptPurgeHasATraceOfItsOwn(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.chain(room, 3)
	exporter := tracetest.NewInMemoryExporter()
	tracer, err := observe.NewTracer(l.Ctx, exporter, "lethe")
	require.NoError(t, err)
	ctx, sweep := tracer.Begin(l.Ctx, "sweep")
	job := journal.Job{
		ID: jobs.NewID(), Kind: jobs.PurgeHistory, Room: room, Parameters: json.RawMessage(`{"token": "t2-1"}`),
		Requester: "x", Generation: 1, Queue: jobs.Low, TraceParent: observe.OriginOf(ctx).TraceParent,
	}
	sweep.End(nil)
	require.NoError(t, l.Journal.InsertJob(l.Ctx, job, false))
	require.NoError(t, dispatch.New(l.redis, nil).Enqueue(l.Ctx, job))
	stop := l.work(WorkerOptions{Tracer: tracer})
	require.Equal(t, journal.Complete, l.ends(job.ID).State)
	stop()
	spans := map[string]tracetest.SpanStub{}
	require.Eventually(t, func() bool {
		for _, span := range exporter.GetSpans() {
			spans[span.Name] = span
		}
		return len(spans[string(jobs.PurgeHistory)].Links) == 1 && spans["sweep"].SpanContext.IsValid()
	}, time.Minute, 50*time.Millisecond)
	purge, from := spans[string(jobs.PurgeHistory)], spans["sweep"].SpanContext
	require.Equal(t, from.SpanID(), purge.Links[0].SpanContext.SpanID())
	require.NotEqual(t, from.TraceID(), purge.SpanContext.TraceID())
	require.Equal(t, purge.SpanContext.TraceID(), spans["batch"].SpanContext.TraceID())
	require.NoError(t, tracer.Close(l.Ctx))
}

func TestQueueWatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	watch := jobs.NewQueueWatch(l.ofScheduler, l.log, l.metrics)
	shown := func(queue, state string) float64 { return value(t, l.metrics.QueueJobs.WithLabelValues(queue, state)) }
	l.submit(room, 6)
	l.submit("!other:x", 6)
	_, err := l.client.SubmitDeleteRoom(l.Ctx, DeleteRoom{Room: "!third:x", Requester: "@admin:x"})
	require.NoError(t, err)
	l.Exec(`UPDATE lethe.jobs SET queue = 'low', created_at = now() - interval '1 h' WHERE room_id = $1`, room)
	require.NoError(t, watch.Check(l.Ctx))
	require.Equal(t, []float64{1, 1, 1, 0}, []float64{
		shown(string(jobs.Low), "queued"), shown(string(jobs.Default), "queued"), shown(string(jobs.Critical), "queued"), shown(string(jobs.Default), "running"),
	})
	require.InDelta(t, 3600, value(t, l.metrics.QueueOldestSeconds.WithLabelValues(string(jobs.Low))), 60)

	// What ends is gone, and what is not known is not shown.
	l.Exec(`DELETE FROM lethe.jobs WHERE queue = 'low'`)
	require.NoError(t, watch.Check(l.Ctx))
	require.Zero(t, shown(string(jobs.Low), "queued"))
	require.Zero(t, value(t, l.metrics.QueueOldestSeconds.WithLabelValues(string(jobs.Low))))
	ctx, cancel := context.WithCancel(l.Ctx)
	cancel()
	require.True(t, errors.Is(watch.Check(ctx), context.Canceled))
	shows := make(chan prometheus.Metric, 10)
	l.metrics.QueueJobs.Collect(shows)
	require.Empty(t, shows)
}
