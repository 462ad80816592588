package plan

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"lethe/internal/matrix"
	"lethe/internal/retention"
	"lethe/internal/store/expiry"
	"lethe/internal/store/footprint"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

const (
	// pageRooms is the number of rooms of which one query decides.
	pageRooms = 500

	// listedRooms is the number of rooms that a plan lists.
	listedRooms = 100
)

// A sweepPlan is the plan of a sweep in the making. However many rooms there are, it
// keeps only the largest, and a hash of all.
type sweepPlan struct {
	Plan
	content hash.Hash
}

func newSweepPlan(request Request) *sweepPlan {
	return &sweepPlan{
		Plan: Plan{
			Kind: request.Kind, Tables: map[string]Figure{}, Users: []string{}, Aliases: []string{}, Servers: []string{},
			Rooms: []RoomPlan{}, Skipped: map[string]int64{}, Warnings: []string{},
		},
		content: sha256.New(),
	}
}

// take adds the rooms of a page in which the sweep would make a job.
func (plan *sweepPlan) take(rooms []string, events []footprint.Events) {
	encoder := json.NewEncoder(plan.content)
	for i, room := range rooms {
		plan.RoomsCount++
		plan.Events += events[i].Deleted
		plan.Rooms = append(plan.Rooms, RoomPlan{room, events[i].Deleted})
		_ = encoder.Encode([]string{room, events[i].Checksum}) // a hash cannot fail
	}
	slices.SortFunc(plan.Rooms, func(a, b RoomPlan) int {
		return cmp.Or(cmp.Compare(b.Events, a.Events), strings.Compare(a.Room, b.Room))
	})
	plan.Rooms = plan.Rooms[:min(len(plan.Rooms), listedRooms)]
}

// finish sets what follows from the rooms.
func (plan *sweepPlan) finish(request Request) Plan {
	plan.Digest = digest{
		events: plan.Events, job: jobHash(request, matrix.Token{}), content: hex.EncodeToString(plan.content.Sum(nil)[:hashBytes]),
	}.String()
	if plan.RoomsCount == 0 {
		plan.add("The sweep finds no room to change.")
	}
	return plan.Plan
}

// retentionJob returns the retention job of a sweep.
func (p *Planner) retentionJob(name string) (retention.Job, error) {
	config := p.options.Retention
	if !config.Enabled {
		return retention.Job{}, fmt.Errorf("%w: retention is not enabled", ErrRequest)
	}
	if name == "" && len(config.Jobs) == 1 {
		return config.Jobs[0], nil
	}
	i := slices.IndexFunc(config.Jobs, func(j retention.Job) bool { return j.Name == name })
	if i < 0 {
		return retention.Job{}, fmt.Errorf("%w: the settings have no retention job of the name %.100q", ErrRequest, name)
	}
	return config.Jobs[i], nil
}

// planRetention decides about all rooms as the sweep would, and makes no job.
func (p *Planner) planRetention(ctx context.Context, request Request) (Plan, error) {
	job, err := p.retentionJob(request.Name)
	if err != nil {
		return Plan{}, err
	}
	request.Name = job.Name
	now, err := p.now(ctx)
	if err != nil {
		return Plan{}, err
	}
	plan := newSweepPlan(request)
	var swept []footprint.Swept
	for after, more := "", true; more; {
		rooms, err := p.expiry.RetentionRooms(ctx, after, pageRooms)
		if err != nil {
			return Plan{}, err
		}
		if more = len(rooms) == pageRooms; len(rooms) > 0 {
			after = rooms[len(rooms)-1].Room
		}
		expired, err := p.expired(ctx, plan, p.cuts(plan, job, rooms, now))
		if err != nil {
			return Plan{}, err
		}
		swept = append(swept, expired...)
	}
	// After the decisions, which need connections of their own: a plan that holds one must
	// not wait for another.
	err = p.footprint.History(ctx, request.Exact, func(ctx context.Context, s *footprint.Snapshot) error {
		for page := range slices.Chunk(swept, pageRooms) {
			events, err := s.PurgedEvents(ctx, page)
			if err != nil {
				return err
			}
			names := make([]string, len(page))
			for i, room := range page {
				names[i] = room.Room
			}
			plan.take(names, events)
		}
		return p.estimate(ctx, s, &plan.Plan)
	})
	if err != nil {
		return Plan{}, err
	}
	return plan.finish(request), nil
}

// now returns the time by which sweeps decide.
func (p *Planner) now(ctx context.Context) (time.Time, error) {
	return expiry.Clock(func() (time.Time, error) { return p.db.Now(ctx) })
}

// cuts returns where the retention job would cut the rooms, and counts those that it
// would skip.
func (p *Planner) cuts(plan *sweepPlan, job retention.Job, rooms []expiry.RoomRetention, now time.Time) []expiry.RoomCut {
	var cuts []expiry.RoomCut
	for _, room := range rooms {
		policy := &retention.Policy{MinLifetime: room.MinLifetime, MaxLifetime: room.MaxLifetime}
		before, expires := p.options.Retention.ExpiredBefore(policy, now)
		switch {
		case !expires:
			plan.Skipped["no_limit"]++
		case !job.Covers(policy, p.options.Retention.DefaultPolicy):
			plan.Skipped["other_job"]++
		case room.Held:
			plan.Skipped["held"]++
		case room.Deleting:
			plan.Skipped["deleting"]++
		case room.Purging:
			plan.Skipped["purging"]++
		default:
			cuts = append(cuts, expiry.RoomCut{Room: room.Room, Before: before})
		}
	}
	return cuts
}

// expired returns the rooms in which something has expired, and counts the others. If
// that fails for all rooms together, it tries each alone.
func (p *Planner) expired(ctx context.Context, plan *sweepPlan, cuts []expiry.RoomCut) (swept []footprint.Swept, err error) {
	if len(cuts) == 0 {
		return nil, nil
	}
	found, err := p.expiry.RetentionCuts(ctx, cuts)
	switch {
	case postgres.IsRowError(err) && len(cuts) == 1:
		plan.Skipped["failed"]++
		return nil, nil
	case postgres.IsRowError(err):
		for i := range cuts {
			one, err := p.expired(ctx, plan, cuts[i:i+1])
			if err != nil {
				return nil, err
			}
			swept = append(swept, one...)
		}
		return swept, nil
	case err != nil:
		return nil, err
	}
	for i, cut := range found {
		if cut.Token == nil {
			plan.Skipped["nothing_expired"]++
			continue
		}
		swept = append(swept, footprint.Swept{Room: cuts[i].Room, Before: cut.Token.Topological})
	}
	return swept, nil
}

// planAbandoned decides about all rooms as the sweep would, and makes no job. It does not
// note the rooms that it finds abandoned.
func (p *Planner) planAbandoned(ctx context.Context, request Request) (Plan, error) {
	settings := p.options.Retention.Abandoned
	if !settings.Enabled {
		return Plan{}, fmt.Errorf("%w: retention.abandoned is not enabled", ErrRequest)
	}
	if _, err := p.options.Purger.Room(ctx, purge.RoomRequest{}); err != nil {
		return Plan{}, err
	}
	now, err := p.now(ctx)
	if err != nil {
		return Plan{}, err
	}
	rule := expiry.AbandonedRule{
		ServerName: p.options.Footprint.ServerName, Before: settings.GoneBefore(now), Exclude: settings.Exclude,
	}
	plan := newSweepPlan(request)
	var names []string
	for after, more := "", true; more; {
		rooms, err := p.expiry.AbandonmentRooms(ctx, after, pageRooms, rule)
		if err != nil {
			return Plan{}, err
		}
		if more = len(rooms) == pageRooms; len(rooms) > 0 {
			after = rooms[len(rooms)-1].Room
		}
		names = p.abandoned(plan, names, rooms, now)
	}
	err = p.footprint.Delete(ctx, request.Exact, func(ctx context.Context, s *footprint.Snapshot) error {
		for page := range slices.Chunk(names, pageRooms) {
			events, err := s.DeletedEvents(ctx, page)
			if err != nil {
				return err
			}
			plan.take(page, events)
		}
		return p.estimate(ctx, s, &plan.Plan)
	})
	if err != nil {
		return Plan{}, err
	}
	return plan.finish(request), nil
}

// abandoned adds the rooms that the sweep would delete to the names, and counts the
// others.
func (p *Planner) abandoned(plan *sweepPlan, names []string, rooms []expiry.RoomAbandonment, now time.Time) []string {
	settings := p.options.Retention.Abandoned
	for _, room := range rooms {
		switch {
		case room.Abandonment != expiry.Abandoned:
			plan.Skipped[string(room.Abandonment)]++
		case room.Held:
			plan.Skipped["held"]++
		case room.Deleting:
			plan.Skipped["deleting"]++
		case !settings.Cooled(room.SeenAt, now):
			plan.Skipped["cooling_off"]++
		case len(names) >= settings.MaxPerRun:
			plan.Skipped["capped"]++
		default:
			names = append(names, room.Room)
		}
	}
	return names
}
