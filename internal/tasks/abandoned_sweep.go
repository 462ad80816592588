package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/store/expiry"
	"lethe/internal/store/journal"
	"lethe/internal/store/purge"
)

// abandonedSkips counts the rooms that a sweep for abandoned rooms has skipped,
// apart from held rooms and rooms with a delete.
type abandonedSkips struct {
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

func abandonedOutcomes(r *sweepResult) map[string]int64 {
	return map[string]int64{
		"enqueued": r.Enqueued, "deleting": r.Skipped.Deleting, "held": r.Skipped.Held, "excluded": r.Skipped.Excluded,
		"members": r.Skipped.Members, "recent": r.Skipped.Recent, "undated": r.Skipped.Undated,
		"cooling_off": r.Skipped.CoolingOff, "capped": r.Skipped.Capped, "failed": r.Skipped.Failed,
	}
}

// abandonedRule returns the rule of the present settings. If they have no rule any
// more, it fails with [expiry.ErrNotAbandoned].
func (w *Worker) abandonedRule(ctx context.Context) (rule expiry.AbandonedRule, now time.Time, err error) {
	settings := w.options.Retention.Abandoned
	if !settings.Enabled {
		return rule, now, fmt.Errorf("%w: retention.abandoned is not enabled", expiry.ErrNotAbandoned)
	}
	if now, err = expiryClock(func() (time.Time, error) { return w.db.Now(ctx) }); err != nil {
		return rule, now, err
	}
	return expiry.AbandonedRule{
		ServerName: w.options.ServerName, Before: settings.GoneBefore(now), Exclude: settings.Exclude,
	}, now, nil
}

// newAbandonedSweep returns the work of a sweep that makes a delete of each room
// that is abandoned now and was found abandoned by an earlier sweep. It is a
// retention sweep with other checks of the rooms.
func (w *Worker) newAbandonedSweep(ctx context.Context, job journal.Job, run journal.Run) (work, error) {
	s := &retentionSweep{worker: w, run: run, config: w.options.Retention, job: w.options.Retention.Abandoned.Job()}
	if !s.config.Abandoned.Enabled {
		return nil, errAbandonedOff
	}
	// Otherwise the sweep would make deletes that all fail.
	if _, err := w.purger.Room(ctx, purge.RoomRequest{}); err != nil {
		return nil, err
	}
	var now time.Time // of the last check
	s.sweeper = sweeper{
		kind: jobs.AbandonedSweep,
		check: func(ctx context.Context) (page sweepPage, err error) {
			page, now, err = s.checkAbandoned(ctx)
			return page, err
		},
		record: func(ctx context.Context, b *journal.Batch, page sweepPage) error {
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
	return s, decodeCheckpoint(job, &s.at)
}

// checkAbandoned decides about the next page of rooms.
func (s *retentionSweep) checkAbandoned(ctx context.Context) (sweepPage, time.Time, error) {
	rule, now, err := s.worker.abandonedRule(ctx)
	if err != nil {
		return nil, now, err
	}
	rooms, err := s.worker.expiry.AbandonmentRooms(ctx, s.at.After, s.worker.options.SweepRooms, rule)
	if err != nil {
		return nil, now, err
	}
	if len(rooms) == 0 {
		return nil, now, s.worker.expiry.ForgetAbandoned(ctx, s.at.After)
	}
	parameters, err := json.Marshal(deleteRoomParameters{Purge: true, Abandoned: true, Sweep: s.run.JobID})
	if err != nil {
		return nil, now, fmt.Errorf("encode the delete's parameters: %w", err)
	}
	left := int64(s.config.Abandoned.MaxPerRun) - s.at.Sweep.Enqueued
	page := make(sweepPage, len(rooms))
	for i, room := range rooms {
		v := verdict{room: room.Room}
		switch {
		case room.Abandonment == expiry.AbandonedExcluded:
			v.skip = func(r *sweepResult) { r.Skipped.Excluded++ }
		case room.Abandonment == expiry.AbandonedMembers:
			v.skip = func(r *sweepResult) { r.Skipped.Members++ }
		case room.Abandonment == expiry.AbandonedRecent:
			v.skip = func(r *sweepResult) { r.Skipped.Recent++ }
		case room.Abandonment != expiry.Abandoned:
			v.skip = func(r *sweepResult) { r.Skipped.Undated++ }
		case room.Held:
			v.skip = func(r *sweepResult) { r.Skipped.Held++ }
		case room.Deleting:
			v.skip = func(r *sweepResult) { r.Skipped.Deleting++ }
		case !s.config.Abandoned.Cooled(room.SeenAt, now):
			v.abandoned, v.skip = true, func(r *sweepResult) { r.Skipped.CoolingOff++ }
		case left <= 0:
			v.abandoned, v.skip = true, func(r *sweepResult) { r.Skipped.Capped++ }
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
