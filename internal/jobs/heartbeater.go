package jobs

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

// HeartbeatInterval is the time between two heartbeats of a run. A run whose
// heartbeat is older than HeartbeatStale counts as dead. Three heartbeats may fail
// before that, even if each attempt takes a whole interval.
const (
	HeartbeatInterval = 3 * time.Second
	HeartbeatStale    = 12 * time.Second
)

// A Heartbeater writes the heartbeats of all runs of a worker, in one statement.
type Heartbeater struct {
	journal *journal.Journal
	log     *slog.Logger

	mu   sync.Mutex
	runs map[journal.Run]watchedRun
}

// A watchedRun is what a Heartbeater does for one run.
type watchedRun struct {
	cancel context.CancelCauseFunc
	post   func(context.Context)
}

// NewHeartbeater returns a Heartbeater. It writes nothing before [Heartbeater.Run].
func NewHeartbeater(db *postgres.DB, log *slog.Logger) *Heartbeater {
	return &Heartbeater{journal: journal.New(db), log: log, runs: map[journal.Run]watchedRun{}}
}

// Run writes heartbeats every [HeartbeatInterval] until the context ends.
func (h *Heartbeater) Run(ctx context.Context) { wait.Every(ctx, HeartbeatInterval, h.beat) }

// Watch writes heartbeats for a run until stop is called, and calls post with each.
// The returned context ends with [journal.ErrSuperseded] when the run no longer owns
// its job. A second call of stop does nothing.
func (h *Heartbeater) Watch(ctx context.Context, run journal.Run, post func(context.Context)) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.runs[run] = watchedRun{cancel: cancel, post: post}
	return watched, func() {
		cancel(nil)
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.runs, run)
	}
}

func (h *Heartbeater) beat(ctx context.Context) {
	h.mu.Lock()
	runs := maps.Clone(h.runs)
	h.mu.Unlock()
	if len(runs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, HeartbeatInterval)
	defer cancel()
	lost, err := h.journal.Heartbeat(ctx, slices.Collect(maps.Keys(runs)))
	if err != nil {
		// The runs go on: each batch checks whether it may commit.
		h.log.WarnContext(ctx, "heartbeats not written", "jobs", len(runs), "error", err)
		return
	}
	for _, run := range lost {
		runs[run].cancel(journal.ErrSuperseded)
		delete(runs, run)
	}
	for _, run := range runs {
		run.post(ctx)
	}
}
