package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"lethe/internal/dispatch"
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wait"
)

// errAbsorbed is the result of a run whose job another one absorbs.
type errAbsorbed struct{ by string }

func (e errAbsorbed) Error() string { return "absorbed by job " + e.by }

const (
	// maxCompared is the number of purges with which a purge is compared before it
	// begins. Further ones run after it, or are absorbed by the next.
	maxCompared = 100

	// maxSettled bounds how many absorbed jobs are settled at a time.
	maxSettled = 100

	// wakeTime bounds the attempts to start the next job of a room. If none succeeds,
	// the job's task returns by itself after about [busyWait].
	wakeTime = time.Second

	// wakeInterval is the wait between these attempts.
	wakeInterval = 20 * time.Millisecond
)

// covers reports whether a purge with these parameters deletes everything that the
// other one would delete, if it begins after the other was accepted. A sweep's purge
// neither covers another nor is covered: the policy that the room has when it runs
// decides what it deletes.
func (p purgeHistoryParameters) covers(other purgeHistoryParameters) bool {
	return p.RetentionJob == "" && other.RetentionJob == "" &&
		p.Token.Topological >= other.Token.Topological && (p.DeleteLocalEvents || !other.DeleteLocalEvents)
}

// absorb compares a purge that has not begun with the room's other queued ones. If one
// of them deletes all that this purge would delete and more, absorb fails with
// [errAbsorbed]. Otherwise this purge absorbs those that it covers.
func (w *Worker) absorb(ctx context.Context, job journal.Job, run journal.Run, parameters purgeHistoryParameters) error {
	others, err := w.absorptions.UnbegunJobs(ctx, job, maxCompared)
	if err != nil {
		return err
	}
	var by string
	widest := parameters
	var covered []string
	for _, other := range others {
		var its purgeHistoryParameters
		if json.Unmarshal(other.Parameters, &its) != nil {
			continue // its own run says what is wrong
		}
		if its.covers(widest) && !widest.covers(its) {
			by, widest = other.ID, its
		}
		if parameters.covers(its) {
			covered = append(covered, other.ID)
		}
	}
	if by != "" {
		return errAbsorbed{by}
	}
	if len(covered) == 0 {
		return nil
	}
	absorbed, err := w.absorptions.AbsorbJobs(ctx, run, covered)
	if err != nil {
		return err
	}
	for _, other := range absorbed {
		w.log.InfoContext(ctx, "job absorbed", "absorbed", other.ID, "by", job.ID)
		w.board.Post(ctx, jobs.StatusOf(other))
	}
	return nil
}

// yieldTo stores that another job absorbs the run's job, and starts that one. The
// run's task is done.
func (w *Worker) yieldTo(ctx context.Context, job journal.Job, run journal.Run, by string, log *slog.Logger) error {
	err := w.retry(ctx, func() error { return w.absorptions.YieldTo(ctx, run, by) })
	switch {
	case errors.Is(err, journal.ErrBegun):
		// Compare again.
		return w.settle(ctx, job, run, nil, jobs.YieldError{Reason: jobs.YieldRoomBusy}, log)
	case err != nil:
		log.WarnContext(ctx, "job not absorbed: left to the reconciler", "error", err)
		return nil
	}
	w.metrics.JobYields.WithLabelValues(string(job.Kind), string(jobs.YieldAbsorbed)).Inc()
	log.InfoContext(ctx, "job absorbed", "absorbed", job.ID, "by", by)
	w.post(ctx, job.ID)
	w.wakeNext(ctx, job.Room, log)
	return nil
}

// follow settles the jobs that an ended job of the room had absorbed, and starts the
// room's next job. If it fails, the reconciler settles them, and the next job begins
// when its task returns.
func (w *Worker) follow(ctx context.Context, room string, log *slog.Logger) {
	queued, absorbed, err := w.journal.Waiting(ctx, room)
	if err != nil {
		log.WarnContext(ctx, "waiting jobs of the room left to the reconciler", "error", err)
		return
	}
	for absorbed {
		settled, err := w.absorptions.SettleAbsorbedOf(ctx, room, maxSettled)
		if err != nil {
			log.WarnContext(ctx, "absorbed jobs left to the reconciler", "error", err)
			break
		}
		for _, other := range settled {
			dispatch.PostSettled(ctx, w.board, w.metrics, other)
			log.InfoContext(ctx, "absorbed job ended", "absorbed", other.ID, "state", other.State, "error", other.Error)
		}
		// Each call settles one link of a chain, or the next part of many jobs.
		absorbed = len(settled) > 0
	}
	if queued {
		w.wakeNext(ctx, room, log)
	}
}

// wakeNext makes asynq deliver the task of the room's next job now. The task waits
// there because its worker found the room busy.
func (w *Worker) wakeNext(ctx context.Context, room string, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, wakeTime)
	defer cancel()
	next, err := w.journal.NextJob(ctx, room)
	if errors.Is(err, postgres.ErrNotFound) {
		return
	}
	if err == nil {
		err = wait.Retry(ctx, wait.Backoff{Min: wakeInterval}, func(err error) bool { return errors.Is(err, dispatch.ErrTaskActive) },
			func() error { return w.dispatcher.Wake(next) })
	}
	if err != nil {
		log.InfoContext(ctx, "the room's next job begins when its task returns", "next", next.ID, "error", err)
	}
}
