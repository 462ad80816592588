package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/selfcheck"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/purge"
	"lethe/internal/wait"
)

// AbandonedSkips counts the rooms that a sweep for abandoned rooms has skipped,
// apart from held rooms and rooms with a delete.
type AbandonedSkips struct {
	// Excluded counts rooms that the settings exclude, and Members rooms with users of
	// this server.
	Excluded int64 `json:"excluded,omitempty"`
	Members  int64 `json:"members,omitempty"`

	// Recent counts rooms that the last local user left too recently, and Undated rooms
	// for which that time is unknown.
	Recent  int64 `json:"recent,omitempty"`
	Undated int64 `json:"undated,omitempty"`

	// CoolingOff counts abandoned rooms that no sweep has found abandoned long enough
	// ago, and Capped rooms that are left to the next run.
	CoolingOff int64 `json:"cooling_off,omitempty"`
	Capped     int64 `json:"capped,omitempty"`
}

func abandonedOutcomes(r *Result) map[string]int64 {
	return map[string]int64{
		"enqueued": r.Enqueued, "deleting": r.Skipped.Deleting, "held": r.Skipped.Held, "excluded": r.Skipped.Excluded,
		"members": r.Skipped.Members, "recent": r.Skipped.Recent, "undated": r.Skipped.Undated,
		"cooling_off": r.Skipped.CoolingOff, "capped": r.Skipped.Capped, "failed": r.Skipped.Failed,
	}
}

// AbandonedRule returns the rule of the present settings, and the time that it is based
// on. If they have no rule any more, it fails with [expiry.ErrNotAbandoned].
func (sw *Sweeper) AbandonedRule(ctx context.Context) (rule expiry.AbandonedRule, now time.Time, err error) {
	settings := sw.options.Retention.Abandoned
	if !settings.Enabled {
		return rule, now, fmt.Errorf("%w: retention.abandoned is not enabled", expiry.ErrNotAbandoned)
	}
	if now, err = expiry.Clock(func() (time.Time, error) { return sw.db.Now(ctx) }); err != nil {
		return rule, now, err
	}
	return expiry.AbandonedRule{
		ServerName: sw.options.ServerName, Before: settings.GoneBefore(now), Exclude: settings.Exclude,
	}, now, nil
}

// errAbandonedOff fails a sweep that was accepted before the settings were changed.
var errAbandonedOff = errors.New("retention.abandoned is not enabled: the sweep was left")

// Abandoned returns the work of a sweep that makes a delete of each room
// that is abandoned now and was found abandoned by an earlier sweep. It fails if
// the settings do not enable that, or with [purge.Purger.Room]'s error if the deletes
// would all fail.
func (sw *Sweeper) Abandoned(ctx context.Context, job journal.Job, run journal.Run) (*Sweep, error) {
	settings := sw.options.Retention.Abandoned
	s := &Sweep{sweeper: sw, run: run, job: settings.Job()}
	if !settings.Enabled {
		return nil, errAbandonedOff
	}
	// Otherwise the sweep would make deletes that all fail.
	if _, err := sw.purger.Room(ctx, purge.RoomRequest{}); err != nil {
		return nil, err
	}
	var now time.Time // of the last check
	s.kind = kind{
		name: jobs.AbandonedSweep,
		check: func(ctx context.Context) (page verdicts, err error) {
			page, now, err = s.checkAbandoned(ctx)
			return page, err
		},
		record: func(ctx context.Context, b *journal.Batch, page verdicts) error {
			checked := expiry.CheckedRange{After: s.at.After, UpTo: page[len(page)-1].room, At: now}
			for _, v := range page {
				if v.abandoned && v.job == nil {
					checked.Abandoned = append(checked.Abandoned, v.room)
				}
			}
			return expiry.RecordAbandoned(ctx, b, checked)
		},
		finish:   s.checkLeft,
		outcomes: abandonedOutcomes,
	}
	return s, s.decode(job.Checkpoint)
}

// checkAbandoned decides about the next page of rooms.
func (s *Sweep) checkAbandoned(ctx context.Context) (verdicts, time.Time, error) {
	settings := s.sweeper.options.Retention.Abandoned
	rule, now, err := s.sweeper.AbandonedRule(ctx)
	if err != nil {
		return nil, now, err
	}
	rooms, err := s.sweeper.expiry.AbandonmentRooms(ctx, s.at.After, s.sweeper.options.PageRooms, rule)
	if err != nil {
		return nil, now, err
	}
	if len(rooms) == 0 {
		return nil, now, s.sweeper.expiry.ForgetAbandoned(ctx, s.at.After)
	}
	parameters, err := json.Marshal(s.sweeper.options.DeleteParameters(Delete{Sweep: s.run.JobID}))
	if err != nil {
		return nil, now, fmt.Errorf("encode the delete's parameters: %w", err)
	}
	left := int64(settings.MaxPerRun) - s.at.Sweep.Enqueued
	page := make(verdicts, len(rooms))
	for i, room := range rooms {
		v := verdict{room: room.Room}
		switch {
		case room.Abandonment == expiry.AbandonedExcluded:
			v.skip = func(r *Result) { r.Skipped.Excluded++ }
		case room.Abandonment == expiry.AbandonedMembers:
			v.skip = func(r *Result) { r.Skipped.Members++ }
		case room.Abandonment == expiry.AbandonedRecent:
			v.skip = func(r *Result) { r.Skipped.Recent++ }
		case room.Abandonment != expiry.Abandoned:
			v.skip = func(r *Result) { r.Skipped.Undated++ }
		case room.Held:
			v.skip = func(r *Result) { r.Skipped.Held++ }
		case room.Deleting:
			v.skip = func(r *Result) { r.Skipped.Deleting++ }
		case !settings.Cooled(room.SeenAt, now):
			v.abandoned, v.skip = true, func(r *Result) { r.Skipped.CoolingOff++ }
		case left <= 0:
			v.abandoned, v.skip = true, func(r *Result) { r.Skipped.Capped++ }
		default:
			left--
			v.abandoned = true
			v.job = &journal.Job{
				ID: jobs.NewID(), Kind: jobs.DeleteRoom, Room: room.Room, Parameters: parameters,
				Requester: retention.Requester, State: journal.Queued, Generation: 1, Queue: jobs.Low, TaskMissing: true,
				TraceParent: observe.OriginOf(ctx).TraceParent,
			}
		}
		page[i] = v
	}
	return page, now, nil
}

// checkLeft waits until the sweep's deletes have ended, and then checks what they have
// left.
func (s *Sweep) checkLeft(ctx context.Context) error {
	if s.at.Sweep.Enqueued == 0 {
		return nil
	}
	report, rooms, err := s.sweeper.check.Sweep(ctx, s.run.JobID)
	if errors.Is(err, selfcheck.ErrDeletesOpen) {
		return jobs.YieldError{Reason: jobs.YieldDeletes, After: wait.Jitter(sweepWait)}
	}
	s.at.Sweep.Report, s.at.Sweep.RoomsChecked = report, rooms
	return err
}
