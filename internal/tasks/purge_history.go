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
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
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

	// Exclusive refuses the purge with [journal.ErrRoomBusy] while the room has a
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

	tally
	EventsKept       int64 `json:"events_kept"`
	StateRowsWritten int64 `json:"state_rows_written"`
}

// purgeHistory is the work of a history purge.
type purgeHistory struct {
	worker *Worker
	run    journal.Run
	purge  *purge.History
	at     purgeHistoryCheckpoint

	// swept says that a sweep has made the purge. Expired says that the room has
	// expired events by its present policy, or that the policy does not matter.
	swept, expired bool
}

func (w *Worker) newPurgeHistory(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	var parameters purgeHistoryParameters
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return nil, fmt.Errorf("decode the job's parameters: %w", err)
	}
	if w.options.Beside {
		return nil, errBeside
	}
	p := &purgeHistory{
		worker: w, run: run, swept: parameters.RetentionJob != "", expired: true,
		at: purgeHistoryCheckpoint{Phase: phaseEvents, Size: w.firstBatch()},
	}
	if err := decodeCheckpoint(job, &p.at); err != nil {
		return nil, err
	}
	request := purge.HistoryRequest{
		Room: job.Room, Before: parameters.Token.Topological,
		DeleteLocal: parameters.DeleteLocalEvents, ServerName: w.options.ServerName,
	}
	if p.swept {
		if err := w.throttle(ctx, 0); err != nil {
			return nil, err
		}
		if p.at.Phase == phaseEvents {
			var err error
			if request.Before, p.expired, err = w.expiredBefore(ctx, request, parameters.ExpiredBefore); err != nil {
				return nil, err
			}
		}
	}
	var err error
	p.purge, err = w.purger.History(ctx, request)
	return p, err
}

// expiredBefore is the depth up to which a sweep's purge may go by the room's policy
// at this moment, and whether it may go at all. The policy or the settings may have
// changed since the sweep decided, by the moment that it is given, so that more
// stays now.
func (w *Worker) expiredBefore(ctx context.Context, request purge.HistoryRequest, decided *int64) (depth int64, expired bool, err error) {
	var policy retention.Policy
	now, err := expiryClock(func() (now time.Time, err error) {
		policy.MinLifetime, policy.MaxLifetime, now, err = w.expiry.RetentionNow(ctx, request.Room)
		return now, err
	})
	if err != nil {
		return 0, false, err
	}
	before, expires := w.options.Retention.ExpiredBefore(&policy, now)
	switch {
	case !expires:
		return request.Before, false, nil
	case decided != nil && before >= *decided:
		return request.Before, true, nil // all that had expired still has
	}
	cuts, err := w.expiry.RetentionCuts(ctx, []expiry.RoomCut{{Room: request.Room, Before: before}})
	if err != nil || cuts[0] == nil {
		return request.Before, false, err
	}
	return min(request.Before, cuts[0].Topological), true, nil
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
	err := postgres.ErrNotFound
	if from < p.purge.Before {
		from, err = p.purge.NextDepth(ctx, from)
	}
	if errors.Is(err, postgres.ErrNotFound) {
		return p.endWalk(ctx)
	}
	if err != nil {
		return err
	}
	rows, err := p.purgeEvents(ctx, from)
	return p.throttle(ctx, rows, err)
}

// endWalk goes on to the second walk, or to the state groups after it. That need not
// be written: a run that begins from the checkpoint before comes to the same
// conclusion.
func (p *purgeHistory) endWalk(ctx context.Context) error {
	if p.at.Batches == 0 && !p.at.Late && !p.swept {
		// Each batch checks this; a purge that finds nothing is refused as well.
		if err := p.purge.Guard(ctx); err != nil {
			return err
		}
	}
	p.at.From = nil
	if p.at.Late {
		p.at.Phase, p.at.Size = phaseStateGroups, p.worker.firstBatch()
	}
	p.at.Late = true
	return nil
}

// purgeEvents purges a batch of events, and returns how many it has dealt with.
func (p *purgeHistory) purgeEvents(ctx context.Context, from int64) (rows int64, err error) {
	ctx, b, err := p.worker.begin(ctx, jobs.PurgeHistory, p.purge.Room, p.run)
	if err != nil {
		return 0, err
	}
	defer b.end(&err)
	done, err := p.purge.Purge(ctx, b.Batch, from, p.size())
	if err != nil {
		return 0, err
	}
	next := p.at
	next.From = &done.Cut
	next.EventsDeleted += done.Deleted
	next.EventsKept += done.Kept
	next.rowWise(done.RowWise)
	next.Size = p.worker.nextBatch(p.size(), minEvents, b.took())
	return done.Deleted + done.Kept, p.commit(ctx, b, next)
}

// nextStateGroups collects some of the state groups that the purge left without
// a use. They belong to the room: those of an earlier purge that failed on its
// way are among them.
func (p *purgeHistory) nextStateGroups(ctx context.Context) (done bool, err error) {
	step, err := p.purge.NextStateGroups(ctx)
	if err != nil || step == purge.StateGroupsCollected {
		return err == nil, err
	}
	rows, err := p.collectStateGroups(ctx, step)
	return false, p.throttle(ctx, rows, err)
}

// collectStateGroups deals with a batch of state groups, and returns how many it
// has deleted.
func (p *purgeHistory) collectStateGroups(ctx context.Context, step purge.StateGroupStep) (rows int64, err error) {
	ctx, b, err := p.worker.begin(ctx, jobs.PurgeHistory, p.purge.Room, p.run)
	if err != nil {
		return 0, err
	}
	defer b.end(&err)
	done, err := p.purge.CollectStateGroups(ctx, b.Batch, step, p.size())
	if err != nil {
		return 0, err
	}
	next := p.at
	next.StateGroupsDeleted += done.Deleted
	next.StateRowsWritten += done.Written
	next.Size = p.worker.nextBatch(p.size(), 1, b.took())
	return done.Deleted, p.commit(ctx, b, next)
}

// commit commits a batch with the checkpoint after it.
func (p *purgeHistory) commit(ctx context.Context, b *roomBatch, next purgeHistoryCheckpoint) error {
	next.Batches++
	if err := b.Commit(ctx, next); err != nil {
		return err
	}
	p.worker.countDeleted(jobs.PurgeHistory, p.at.tally, next.tally, 0)
	p.at = next
	return nil
}

// throttle takes what a batch of a sweep's purge has deleted from what sweeps may
// delete, and returns the batch's error if there was one.
func (p *purgeHistory) throttle(ctx context.Context, rows int64, err error) error {
	if err != nil || !p.swept {
		return err
	}
	return p.worker.throttle(ctx, rows)
}

// minEvents is how many events a batch takes on however slow the last one was: up
// to here, the cost of a batch does not depend on their number.
const minEvents = 50

// size is how much the next batch takes on: if the rows per second are limited, no
// more than that, so that no purge has to pause for long afterwards.
func (p *purgeHistory) size() int {
	if rate := p.worker.options.RowsPerSecond; p.swept && rate > 0 {
		return min(p.at.Size, rate)
	}
	return p.at.Size
}
