package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

var (
	errRetentionOff = errors.New("retention is not enabled: the sweep was left")
	errNoSuchJob    = errors.New("no job of that name is configured: the sweep was left")
)

// Retention returns the work of a sweep that makes a purge of each room that its
// retention job covers and that has something to purge. The job's parameters are
// [retention.SweepParameters]. It fails if the settings do not have the retention job,
// or with [purge.Purger.History]'s error if the purges would all fail.
func (sw *Sweeper) Retention(ctx context.Context, job journal.Job, run journal.Run) (*Sweep, error) {
	var parameters retention.SweepParameters
	if err := json.Unmarshal(job.Parameters, &parameters); err != nil {
		return nil, fmt.Errorf("decode the job's parameters: %w", err)
	}
	s := &Sweep{sweeper: sw, run: run}
	config := sw.options.Retention
	if !config.Enabled {
		return nil, errRetentionOff
	}
	named := func(j retention.Job) bool { return j.Name == parameters.Job }
	i := slices.IndexFunc(config.Jobs, named)
	if i < 0 {
		return nil, fmt.Errorf("retention job %q: %w", parameters.Job, errNoSuchJob)
	}
	s.job = config.Jobs[i]
	// Otherwise the sweep would make purges that all fail.
	if _, err := sw.purger.History(ctx, purge.HistoryRequest{}); err != nil {
		return nil, err
	}
	s.kind = kind{name: jobs.RetentionSweep, check: s.checkExpired, outcomes: (*Result).outcomes}
	return s, s.decode(job.Checkpoint)
}

// checkExpired decides about the next page of rooms.
func (s *Sweep) checkExpired(ctx context.Context) (verdicts, error) {
	rooms, err := s.sweeper.expiry.RetentionRooms(ctx, s.at.After, s.sweeper.options.PageRooms)
	if err != nil || len(rooms) == 0 {
		return nil, err
	}
	return s.decide(ctx, rooms)
}

// decide decides about rooms. It uses the present time and not the sweep's tick:
// however late the sweep is, exactly what has expired is purged.
func (s *Sweep) decide(ctx context.Context, rooms []expiry.RoomRetention) (verdicts, error) {
	now, err := expiry.Clock(func() (time.Time, error) { return s.sweeper.db.Now(ctx) })
	if err != nil {
		return nil, err
	}
	page := make(verdicts, len(rooms))
	var cuts []expiry.RoomCut
	var cutOf []int
	for i, room := range rooms {
		page[i].room = room.Room
		policy := &retention.Policy{MinLifetime: room.MinLifetime, MaxLifetime: room.MaxLifetime}
		before, expires := s.sweeper.options.Retention.ExpiredBefore(policy, now)
		switch {
		case !expires:
			page[i].skip = func(r *Result) { r.Skipped.NoLimit++ }
		case !s.job.Covers(policy, s.sweeper.options.Retention.DefaultPolicy):
			page[i].skip = func(r *Result) { r.Skipped.OtherJob++ }
		case room.Held:
			page[i].skip = func(r *Result) { r.Skipped.Held++ }
		case room.Deleting:
			page[i].skip = func(r *Result) { r.Skipped.Deleting++ }
			s.sweeper.log.InfoContext(ctx, "room not purged: its delete is in progress", "room", room.Room)
		case room.Purging:
			page[i].skip = func(r *Result) { r.Skipped.Purging++ }
			s.sweeper.log.InfoContext(ctx, "room not purged: there is an ongoing purge of it", "room", room.Room)
		default:
			page[i].skip = func(r *Result) { r.Skipped.NothingExpired++ }
			cuts, cutOf = append(cuts, expiry.RoomCut{Room: room.Room, Before: before}), append(cutOf, i)
		}
	}
	return page, s.cut(ctx, page, cuts, cutOf)
}

// cut finds the depths at which to cut those rooms of the page that may have
// something to purge. If that fails for all together, it tries each room alone.
func (s *Sweep) cut(ctx context.Context, page verdicts, cuts []expiry.RoomCut, cutOf []int) error {
	if len(cuts) == 0 {
		return nil
	}
	found, err := s.sweeper.expiry.RetentionCuts(ctx, cuts)
	if postgres.IsRowError(err) && len(cuts) > 1 {
		for i := range cuts {
			if err := s.cut(ctx, page, cuts[i:i+1], cutOf[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if postgres.IsRowError(err) {
		page[cutOf[0]].err = err
		return nil
	}
	if err != nil {
		return err
	}
	for i, cut := range found {
		if cut.Before == nil {
			s.sweeper.log.InfoContext(ctx, fmt.Sprintf("room not purged: No event found (ts %d => stream_ordering %d)", cuts[i].Before, cut.Stream),
				"room", cuts[i].Room)
		}
		if cut.Token == nil {
			continue
		}
		parameters, err := json.Marshal(s.sweeper.options.PurgeParameters(Purge{
			Token: *cut.Token, RetentionJob: s.job.Name, ExpiredBefore: cuts[i].Before,
		}))
		if err != nil {
			return fmt.Errorf("encode the purge's parameters: %w", err)
		}
		page[cutOf[i]].job = &journal.Job{
			ID: jobs.NewID(), Kind: jobs.PurgeHistory, Room: cuts[i].Room, Parameters: parameters,
			Requester: retention.Requester, State: journal.Queued, Generation: 1, Queue: jobs.Low,
			TraceParent: observe.OriginOf(ctx).TraceParent,
			TaskMissing: true, // so that the reconciler enqueues it at once if this process dies before
		}
	}
	return nil
}
