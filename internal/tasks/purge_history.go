package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/retention"
	"lethe/internal/store"
)

// PurgeHistory asks for the history of a room to be purged.
type PurgeHistory struct {
	Room string

	// Token is the page token of the first event that stays. Only its
	// topological part counts: all events of that depth stay.
	Token matrix.Token

	// DeleteLocalEvents says that events sent by this server's users go too.
	DeleteLocalEvents bool

	// Requester is the user id of the admin who asks.
	Requester string

	// Exclusive refuses the purge with [store.ErrRoomBusy] while the room has a
	// job that has not ended. Otherwise the purge waits its turn.
	Exclusive bool
}

// SubmitPurgeHistory accepts a purge and returns its job's id. An error means
// that it was not accepted. A second call makes a second job.
func (c *Client) SubmitPurgeHistory(ctx context.Context, purge PurgeHistory) (id string, err error) {
	id, err = c.submit(ctx, jobs.PurgeHistory, purge.Room, purge.Requester,
		purgeHistoryParameters{Token: purge.Token, DeleteLocalEvents: purge.DeleteLocalEvents}, purge.Exclusive)
	if err != nil {
		return "", fmt.Errorf("submit a history purge: %w", err)
	}
	return id, nil
}

// purgeHistoryParameters are those of the job's row, by the names that Synapse
// gives them in its own task table.
type purgeHistoryParameters struct {
	Token             matrix.Token `json:"token"`
	DeleteLocalEvents bool         `json:"delete_local_events"`

	// RetentionJob is the name of the retention job by which a sweep made the
	// purge; empty if somebody has asked for it. What the sweep has decided is the
	// most that goes: what the room's policy keeps when the purge runs, stays.
	RetentionJob string `json:"retention_job,omitempty"`

	// ExpiredBefore is the moment by which the sweep has decided, in Unix
	// milliseconds: what arrived before it had expired.
	ExpiredBefore *int64 `json:"expired_before,omitempty"`
}

// The phases of a history purge, in order.
const (
	phaseEvents      = "events"
	phaseStateGroups = "state_groups"
)

// purgeHistoryCheckpoint is how far a history purge is.
type purgeHistoryCheckpoint struct {
	Phase string `json:"phase"`

	// From is the depth that the room is purged to, nothing at the beginning of
	// a walk. There are two: Late is set in the second, which finds what
	// arrived below the first one's cuts.
	From *int64 `json:"from,omitempty"`
	Late bool   `json:"late,omitempty"`

	// Size is how much the next batch takes on, in events or state groups.
	Size int `json:"size"`

	Batches            int64 `json:"batches"`
	EventsDeleted      int64 `json:"events_deleted"`
	EventsKept         int64 `json:"events_kept"`
	StateGroupsDeleted int64 `json:"state_groups_deleted"`
	StateRowsWritten   int64 `json:"state_rows_written"`

	// RowWiseBatches counts the batches whose references the server had to
	// check row by row, and RowWiseWhy says why the last of them did.
	RowWiseBatches int64  `json:"row_wise_batches"`
	RowWiseWhy     string `json:"row_wise_why,omitempty"`
}

// purgeHistory is the work of a history purge.
type purgeHistory struct {
	worker  *Worker
	run     store.Run
	purge   store.HistoryPurge
	catalog store.Catalog
	at      purgeHistoryCheckpoint

	// swept says that a sweep has made the purge, and expired that the room has
	// something to purge by the policy that it has now, unless nobody asked yet.
	swept, expired bool
}

func (w *Worker) newPurgeHistory(ctx context.Context, job store.Job, run store.Run) (*purgeHistory, error) {
	var parameters purgeHistoryParameters
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return nil, fmt.Errorf("decode the job's parameters: %w", err)
	}
	if w.options.Beside {
		return nil, errBeside
	}
	p := &purgeHistory{
		worker: w,
		run:    run,
		purge: store.HistoryPurge{
			Room: job.Room, Before: parameters.Token.Topological,
			DeleteLocal: parameters.DeleteLocalEvents, ServerName: w.options.ServerName,
		},
		at:    purgeHistoryCheckpoint{Phase: phaseEvents, Size: w.firstBatch()},
		swept: parameters.RetentionJob != "", expired: true,
	}
	if len(job.Checkpoint) > 0 {
		if err := json.Unmarshal(job.Checkpoint, &p.at); err != nil {
			return nil, fmt.Errorf("decode the job's checkpoint: %w", err)
		}
	}
	if p.swept {
		if err := w.throttle(ctx, 0); err != nil {
			return nil, err
		}
		if p.at.Phase == phaseEvents {
			if err := p.judge(ctx, parameters.ExpiredBefore); err != nil {
				return nil, err
			}
		}
	}
	var err error
	p.catalog, err = w.history.get(ctx)
	return p, err
}

// judge decides anew what of the room has expired: since the sweep, which decided by
// the moment that it is given, its policy or the settings may have changed to keep
// more.
func (p *purgeHistory) judge(ctx context.Context, decided *int64) error {
	var policy retention.Policy
	now, err := earlier(func() (now time.Time, err error) {
		policy.MinLifetime, policy.MaxLifetime, now, err = p.worker.store.RetentionNow(ctx, p.purge.Room)
		return now, err
	})
	if err != nil {
		return err
	}
	before, expires := p.worker.options.Retention.ExpiredBefore(&policy, now)
	switch {
	case !expires:
		p.expired = false
		return nil
	case decided != nil && before >= *decided:
		return nil // all that had expired still has
	}
	cuts, err := p.worker.store.RetentionCuts(ctx, []store.RoomCut{{Room: p.purge.Room, Before: before}})
	if err != nil {
		return err
	}
	if p.expired = cuts[0] != nil; p.expired {
		p.purge.Before = min(p.purge.Before, cuts[0].Topological)
	}
	return nil
}

func (p *purgeHistory) progress() any { return p.at }

// next does one batch.
func (p *purgeHistory) next(ctx context.Context) (done bool, err error) {
	switch p.at.Phase {
	case phaseEvents:
		if !p.expired {
			// What an earlier run has purged may have left state groups.
			p.at.Phase, p.at.Size = phaseStateGroups, p.worker.firstBatch()
			return p.at.Batches == 0, nil
		}
		return false, p.nextEvents(ctx)
	case phaseStateGroups:
		return p.nextStateGroups(ctx)
	}
	return false, fmt.Errorf("the checkpoint has the unknown phase %q", p.at.Phase)
}

// nextEvents purges the next levels that hold something to purge.
func (p *purgeHistory) nextEvents(ctx context.Context) error {
	from := int64(math.MinInt64)
	if p.at.From != nil {
		from = *p.at.From
	}
	err := store.ErrNotFound
	if from < p.purge.Before {
		from, err = p.worker.store.NextHistoryDepth(ctx, p.purge, from)
	}
	if errors.Is(err, store.ErrNotFound) {
		if p.at.Batches == 0 && !p.at.Late && !p.swept {
			// Each batch asks this; a purge that finds nothing is refused as well.
			if err := p.worker.store.GuardHistory(ctx, p.purge); err != nil {
				return err
			}
		}
		// The walk is over. That need not be written: a run that begins from the
		// checkpoint before comes to the same conclusion.
		if p.at.From = nil; p.at.Late {
			p.at.Phase, p.at.Size = phaseStateGroups, p.worker.firstBatch()
		}
		p.at.Late = true
		return nil
	}
	if err != nil {
		return err
	}
	var rows int64
	err = p.batch(ctx, func(ctx context.Context, batch store.Batch, moved moved) error {
		_, err := p.worker.store.PurgeHistoryBatch(ctx, batch, p.catalog, p.purge, from, p.size(),
			func(done store.HistoryBatch) any {
				return moved(func(at *purgeHistoryCheckpoint) {
					rows = done.Deleted + done.Kept
					at.From = &done.Cut
					at.EventsDeleted += done.Deleted
					at.EventsKept += done.Kept
					if done.RowWise != "" {
						at.RowWiseBatches++
						at.RowWiseWhy = done.RowWise
					}
				})
			})
		return err
	})
	return p.take(ctx, rows, err)
}

// take takes what a batch has deleted, if it has, from what sweeps may delete, and
// returns the batch's error.
func (p *purgeHistory) take(ctx context.Context, rows int64, err error) error {
	if err != nil || !p.swept {
		return err
	}
	return p.worker.throttle(ctx, rows)
}

// nextStateGroups collects some of the state groups that the purge left without
// a use. They belong to the room: those of an earlier purge that failed on its
// way are among them.
func (p *purgeHistory) nextStateGroups(ctx context.Context) (done bool, err error) {
	step, err := p.worker.store.NextStateGroupStep(ctx, p.purge.Room)
	if err != nil || step == nil {
		return err == nil, err
	}
	var rows int64
	err = p.batch(ctx, func(ctx context.Context, batch store.Batch, moved moved) error {
		_, err := step(ctx, batch, p.catalog, p.size(), func(done store.StateGroupBatch) any {
			return moved(func(at *purgeHistoryCheckpoint) {
				rows = done.Deleted
				at.StateGroupsDeleted += done.Deleted
				at.StateRowsWritten += done.Written
			})
		})
		return err
	})
	return false, p.take(ctx, rows, err)
}

// moved makes the checkpoint after a batch, to be committed with it.
type moved func(update func(*purgeHistoryCheckpoint)) any

// leastEvents is how many events a batch takes on however slow the last one was:
// up to here, what each batch costs is not paid by the event.
const leastEvents = 50

// size is how much the next batch takes on: if the rows per second are limited, no
// more than that, so that nobody has to pause for long afterwards.
func (p *purgeHistory) size() int {
	if rate := p.worker.options.RowsPerSecond; p.swept && rate > 0 {
		return min(p.at.Size, rate)
	}
	return p.at.Size
}

// batch runs do under the room's lock, and moves on when it has committed.
func (p *purgeHistory) batch(ctx context.Context, do func(context.Context, store.Batch, moved) error) error {
	next, least := p.at, 1
	if p.at.Phase == phaseEvents {
		least = leastEvents
	}
	err := p.worker.inRoom(ctx, jobs.PurgeHistory, p.purge.Room, p.run, func(ctx context.Context, batch store.Batch) error {
		started := time.Now()
		return do(ctx, batch, func(update func(*purgeHistoryCheckpoint)) any {
			next.Batches++
			next.Size = p.worker.nextBatch(p.size(), least, time.Since(started))
			update(&next)
			return next
		})
	})
	if err == nil {
		events, groups := next.EventsDeleted-p.at.EventsDeleted, next.StateGroupsDeleted-p.at.StateGroupsDeleted
		p.worker.countDeleted(jobs.PurgeHistory, events, groups, 0, next.RowWiseBatches-p.at.RowWiseBatches)
		p.at = next
	}
	return err
}
