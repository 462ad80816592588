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

// How often a run's heartbeat is written, and the age at which it says that the
// run is dead. A write that takes as long as one interval may fail three times
// before that.
const (
	HeartbeatInterval = 3 * time.Second
	HeartbeatStale    = 12 * time.Second
)

// A Heart beats for all runs of a worker, in one statement.
type Heart struct {
	journal *journal.Journal
	log     *slog.Logger

	mu   sync.Mutex
	runs map[journal.Run]beat
}

// A beat is what the Heart does for one run.
type beat struct {
	lose context.CancelCauseFunc
	post func(context.Context)
}

// NewHeart returns a Heart that does not beat before [Heart.Run].
func NewHeart(db *postgres.DB, log *slog.Logger) *Heart {
	return &Heart{journal: journal.New(db), log: log, runs: map[journal.Run]beat{}}
}

// Run beats every [HeartbeatInterval] until the context ends.
func (h *Heart) Run(ctx context.Context) { wait.Every(ctx, HeartbeatInterval, h.beat) }

// Watch beats for a run until stop is called, and posts its status with each
// beat. The context that it returns ends with [journal.ErrSuperseded] when the
// run no longer owns its job. A second stop does nothing.
func (h *Heart) Watch(ctx context.Context, run journal.Run, post func(context.Context)) (watched context.Context, stop func()) {
	watched, lose := context.WithCancelCause(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.runs[run] = beat{lose: lose, post: post}
	return watched, func() {
		lose(nil)
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.runs, run)
	}
}

func (h *Heart) beat(ctx context.Context) {
	h.mu.Lock()
	beats := maps.Clone(h.runs)
	h.mu.Unlock()
	if len(beats) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, HeartbeatInterval)
	defer cancel()
	lost, err := h.journal.Heartbeat(ctx, slices.Collect(maps.Keys(beats)))
	if err != nil {
		// The runs go on: each batch checks for itself that it may commit.
		h.log.WarnContext(ctx, "heartbeats not written", "jobs", len(beats), "error", err)
		return
	}
	for _, run := range lost {
		beats[run].lose(journal.ErrSuperseded)
		delete(beats, run)
	}
	for _, beat := range beats {
		beat.post(ctx)
	}
}
