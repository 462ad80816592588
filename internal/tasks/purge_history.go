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
	"lethe/internal/pace"
	"lethe/internal/retention"
	"lethe/internal/store/expiry"
	"lethe/internal/store/extent"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/synapse"
)

// PurgeHistory is a request to purge the history of a room.
type PurgeHistory struct {
	Room string

	// Token is the page token of the first event that stays. Only its topological part
	// counts: all events of that depth stay.
	Token matrix.Token

	// DeleteLocalEvents says that events sent by this server's users go too.
	DeleteLocalEvents bool

	// Requester is the user id of the admin who requests it.
	Requester string

	// Exclusive refuses the purge with [journal.ErrRoomBusy] while the room has an open
	// job. Otherwise the purge waits for its turn: the room's purges run in the order in
	// which they were accepted. If another one that waits too deletes everything that
	// this one would delete, that one absorbs it: this one ends as the other does.
	Exclusive bool

	// PurgePoint is what Token was decided for. Defaults to nothing.
	jobs.PurgePoint
	Acceptance
}

// SubmitPurgeHistory accepts a purge and returns its job's id. After an error it is
// not accepted. A second call makes a second job.
func (c *Client) SubmitPurgeHistory(ctx context.Context, purge PurgeHistory) (id string, err error) {
	job := journal.Job{Kind: jobs.PurgeHistory, Room: purge.Room, Requester: purge.Requester}
	id, err = c.submit(ctx, job, purge.Acceptance,
		purgeHistoryParameters{Token: purge.Token, DeleteLocalEvents: purge.DeleteLocalEvents, PurgePoint: purge.PurgePoint}, purge.Exclusive)
	if err != nil {
		return "", fmt.Errorf("submit a history purge: %w", err)
	}
	return id, nil
}

// purgeHistoryParameters are the parameters in the job's row. They have the names of
// Synapse's own task table.
type purgeHistoryParameters struct {
	Token             matrix.Token `json:"token"`
	DeleteLocalEvents bool         `json:"delete_local_events"`
	jobs.PurgePoint

	// RetentionJob is the name of the retention job whose sweep has made the purge; ""
	// if an admin has requested it. The purge deletes at most what the sweep has
	// decided: it keeps whatever the room's policy keeps when the purge runs.
	RetentionJob string `json:"retention_job,omitempty"`

	// ExpiredBefore is the sweep's moment, in Unix milliseconds: earlier events had expired.
	ExpiredBefore *int64 `json:"expired_before,omitempty"`
}

// The phases of a history purge, in order.
const (
	phaseEvents      = "events"
	phaseMappings    = "mappings" // beside a Synapse
	phaseStateGroups = "state_groups"
)

// purgeHistoryCheckpoint is the checkpoint of a history purge.
type purgeHistoryCheckpoint struct {
	Phase string `json:"phase"`

	// From is the depth to which the room is purged, nil at the beginning of a walk.
	// There are two walks. Late is set in the second, which purges events that have
	// arrived below the cuts of the first.
	From *int64 `json:"from,omitempty"`
	Late bool   `json:"late,omitempty"`

	// Size is the size of the next batch, in events or state groups.
	Size int `json:"size"`

	// Task is the id of the task with which Synapse confirms that it has forgotten the
	// purged events, "" before it is asked. Confirmed is set afterwards, or if there is
	// no Synapse that could remember them.
	Task      string `json:"task,omitempty"`
	Confirmed bool   `json:"confirmed,omitempty"`

	// Left says that the last level is left to Synapse: see [purgeHistory.leaveLast]. It
	// is cleared when Synapse has confirmed.
	Left bool `json:"left,omitempty"`

	// CompleteBelow is the depth below which the room is purged, nil before the first
	// batch. Unlike From it never goes back.
	CompleteBelow *int64 `json:"complete_below,omitempty"`

	tally
	EventsKept       int64 `json:"events_kept"`
	StateRowsWritten int64 `json:"state_rows_written"`
}

// AbsorberOf reads from the checkpoint of a history purge which purge has absorbed
// it; "" if none has.
func AbsorberOf(checkpoint []byte) (id string, err error) {
	var absorbed struct {
		By string `json:"absorbed_by"`
	}
	if len(checkpoint) > 0 {
		if err := json.Unmarshal(checkpoint, &absorbed); err != nil {
			return "", fmt.Errorf("decode the job's checkpoint: %w", err)
		}
	}
	return absorbed.By, nil
}

// purgeHistory is the work of a history purge.
type purgeHistory struct {
	worker *Worker
	run    journal.Run
	purge  *purge.History
	at     purgeHistoryCheckpoint
	way    synapse.Way

	// until is the depth at which the purge ends, and left says that Synapse purges the
	// last level itself: see [purgeHistory.leaveLast].
	until int64
	left  bool

	// toldAt is when Synapse was last told of a batch, and untold says that there were
	// batches since.
	toldAt time.Time
	untold bool

	// sweeps is how often the run has come to the sweep of mappings that are due.
	sweeps int

	// swept says that a sweep has made the purge. expired says that the room has
	// expired events by its present policy, or that the policy does not matter.
	swept, expired bool
}

func (w *Worker) newPurgeHistory(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	var parameters purgeHistoryParameters
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return nil, fmt.Errorf("decode the job's parameters: %w", err)
	}
	way, err := w.ready(ctx)
	if err != nil {
		return nil, err
	}
	p := &purgeHistory{
		worker: w, run: run, way: way, swept: parameters.RetentionJob != "", expired: true,
		at: purgeHistoryCheckpoint{Phase: phaseEvents, Size: w.pace.First(pace.Events)},
	}
	if err := decodeCheckpoint(job, &p.at); err != nil {
		return nil, err
	}
	if err := w.awaitTasks(ctx, job.Room, p.at.Task); err != nil {
		return nil, err
	}
	p.takeBack()
	if len(job.Checkpoint) == 0 && !p.swept {
		if err := w.absorb(ctx, job, run, parameters); err != nil {
			return nil, err
		}
	}
	request := purge.HistoryRequest{
		Room: job.Room, Before: parameters.Token.Topological,
		DeleteLocal: parameters.DeleteLocalEvents, ServerName: w.options.ServerName, KeepMappings: w.beside(),
	}
	if err := p.throttle(ctx, 0, nil); err != nil {
		return nil, err
	}
	if p.swept {
		// Later phases need it only for what they leave to Synapse.
		if p.at.Phase == phaseEvents || p.at.Phase == phaseMappings && way == synapse.ByTask {
			if request.Before, p.expired, err = w.expiredBefore(ctx, request, parameters.ExpiredBefore); err != nil {
				return nil, err
			}
		}
	}
	if p.purge, err = w.purger.History(ctx, request); err != nil {
		return nil, err
	}
	p.until = request.Before
	_ = extent.RecordPurge(ctx, w.db, job, run, request.Before) // nothing depends on it
	if way == synapse.ByTask && !p.at.Confirmed && p.expired {
		err = p.leaveLast(ctx)
	}
	return p, err
}

// expiredBefore returns the depth up to which the room's present policy lets a
// sweep's purge go, and whether anything has expired at all. decided is the moment
// that the sweep has used. The policy or the settings may have changed since, so
// that more events must stay.
func (w *Worker) expiredBefore(ctx context.Context, request purge.HistoryRequest, decided *int64) (depth int64, expired bool, err error) {
	var policy retention.Policy
	now, err := expiry.Clock(func() (now time.Time, err error) {
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
		return request.Before, true, nil // what had expired then has still expired
	}
	cuts, err := w.expiry.RetentionCuts(ctx, []expiry.RoomCut{{Room: request.Room, Before: before}})
	if err != nil || cuts[0].Token == nil {
		return request.Before, false, err
	}
	return min(request.Before, cuts[0].Token.Topological), true, nil
}

func (p *purgeHistory) progress() any { return p.at }

func (p *purgeHistory) leave(context.Context, bool) {}

// next does one batch.
func (p *purgeHistory) next(ctx context.Context) (done bool, err error) {
	switch p.at.Phase {
	case phaseEvents:
		if !p.expired {
			// An earlier run may have left state groups.
			p.at.Phase, p.at.Size = phaseMappings, p.worker.pace.First(pace.StateGroups)
			return p.at.Batches == 0, nil
		}
		return false, p.nextEvents(ctx)
	case phaseMappings:
		return false, p.nextMappings(ctx)
	case phaseStateGroups:
		return p.nextStateGroups(ctx)
	}
	return false, fmt.Errorf("the checkpoint has the unknown phase %q", p.at.Phase)
}

// nextEvents purges the next levels that have something to purge.
func (p *purgeHistory) nextEvents(ctx context.Context) error {
	from := int64(math.MinInt64)
	if p.at.From != nil {
		from = *p.at.From
	}
	err := postgres.ErrNotFound
	if from < p.until {
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

// endWalk begins the second walk, or, after it, the phase of the state groups. This
// need not be stored: a run that begins from the previous checkpoint comes to the
// same result.
func (p *purgeHistory) endWalk(ctx context.Context) error {
	if p.at.Batches == 0 && !p.at.Late && !p.swept {
		// Each batch checks this. A purge that finds nothing must be refused too.
		if err := p.purge.Guard(ctx); err != nil {
			return err
		}
	}
	p.at.From = nil
	p.completeBelow(p.purge.Before)
	if p.at.Late {
		p.at.Phase, p.at.Size = phaseMappings, p.worker.pace.First(pace.StateGroups)
	}
	p.at.Late = true
	return nil
}

// completeBelow records to which depth the room is purged.
func (p *purgeHistory) completeBelow(depth int64) {
	if p.at.CompleteBelow == nil || *p.at.CompleteBelow < depth {
		p.at.CompleteBelow = &depth
	}
}

// purgeEvents purges a batch of events, and returns their number, kept ones
// included.
func (p *purgeHistory) purgeEvents(ctx context.Context, from int64) (rows int64, err error) {
	ctx, b, err := p.worker.begin(ctx, jobs.PurgeHistory, p.purge.Room, p.run)
	if err != nil {
		return 0, err
	}
	defer b.end(&err)
	if err := b.keepOut(ctx); err != nil {
		return 0, err
	}
	lowest, err := p.lowestExtremity(ctx, b)
	if err != nil {
		return 0, err
	}
	size := p.size(pace.Events)
	done, err := p.purge.Purge(ctx, b.Batch, from, size)
	if err != nil {
		return 0, err
	}
	next := p.at
	next.From = &done.Cut
	if !next.Late {
		next.CompleteBelow = &done.Cut
	}
	next.EventsDeleted += done.Deleted
	next.EventsKept += done.Kept
	next.rowWise(done.RowWise)
	rows = done.Deleted + done.Kept
	next.Size = p.worker.pace.Next(pace.Batch{Work: pace.Events, Planned: p.at.Size, Size: size, Done: rows, Took: b.took()})
	return rows, p.commit(ctx, b, next, p.tell(rows, done.Cut > lowest))
}

// nextStateGroups collects some of the state groups that have become unused. They
// belong to the room: those of an earlier, failed purge are among them.
func (p *purgeHistory) nextStateGroups(ctx context.Context) (done bool, err error) {
	step, err := p.purge.NextStateGroups(ctx)
	if err != nil || step == purge.StateGroupsCollected {
		return err == nil, err
	}
	rows, err := p.collectStateGroups(ctx, step)
	return false, p.throttle(ctx, rows, err)
}

// collectStateGroups processes a batch of state groups, and returns the number of
// deleted ones.
func (p *purgeHistory) collectStateGroups(ctx context.Context, step purge.StateGroupStep) (rows int64, err error) {
	ctx, b, err := p.worker.begin(ctx, jobs.PurgeHistory, p.purge.Room, p.run)
	if err != nil {
		return 0, err
	}
	defer b.end(&err)
	size := p.size(pace.StateGroups)
	done, err := p.worker.collect(ctx, p.purge, b, step, size)
	if err != nil {
		return 0, err
	}
	next := p.at
	next.StateGroupsDeleted += done.Deleted
	next.StateRowsWritten += done.Written
	next.Size = p.worker.pace.Next(pace.Batch{Work: pace.StateGroups, Planned: p.at.Size, Size: size, Done: done.Checked, Took: b.took()})
	return done.Deleted, p.commit(ctx, b, next, ending{})
}

// commit commits a batch with the checkpoint after it, and with what it does last for
// Synapse.
func (p *purgeHistory) commit(ctx context.Context, b *roomBatch, next purgeHistoryCheckpoint, end ending) error {
	next.Batches++
	if err := b.commitBeside(ctx, next, end); err != nil {
		return err
	}
	if end.delayed {
		p.untold = true
	}
	if end.caches != "" {
		p.untold, p.toldAt = false, time.Now()
	}
	p.worker.countDeleted(jobs.PurgeHistory, p.at.tally, next.tally, 0)
	p.at = next
	return nil
}

// throttle counts the rows that a batch has deleted against the fleet's limit. It returns
// the batch's error if there was one.
func (p *purgeHistory) throttle(ctx context.Context, rows int64, err error) error {
	return p.worker.throttle(ctx, jobs.PurgeHistory, p.swept, rows, err)
}

// size returns the size of the next batch. If the rows per second are limited, the
// batch is no larger than the limit, so that no purge has to pause for long after
// it.
func (p *purgeHistory) size(work pace.Work) int {
	return p.worker.size(work, jobs.PurgeHistory, p.swept, p.purge.Room, p.at.Size)
}
