package plan

import (
	"context"
	"errors"
	"fmt"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/retention"
	"lethe/internal/store/admin"
	"lethe/internal/store/expiry"
	"lethe/internal/store/footprint"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

// ErrWrongRoom is returned for an event of another room.
var ErrWrongRoom = errors.New("the event is of another room")

// ErrRequest is returned for a request that no job can have.
var ErrRequest = errors.New("nothing to plan")

// A Figure is how many rows a job deletes from a table, or an estimate.
type Figure = footprint.Figure

// A Request is a job to plan.
type Request struct {
	// Kind is the job's kind. It has no default.
	Kind journal.Kind

	// Room is the job's room. A sweep has none.
	Room string

	// BeforeEvent, BeforeTime and Before say where a purge ends: the id of the first
	// event that stays, a time of arrival in Unix milliseconds, or the token that was
	// decided for one of them. The first of them that is set counts.
	BeforeEvent string
	BeforeTime  *int64
	Before      matrix.Token

	// DeleteLocalEvents also deletes the events of this server's users. Defaults to
	// false.
	DeleteLocalEvents bool

	// Name is the name of a sweep's retention job. Defaults to "", the only one.
	Name string

	// Exact counts the rows of every table, however long that takes. Defaults to false.
	Exact bool
}

// A Plan is what a job would do if it ran now.
type Plan struct {
	Kind journal.Kind `json:"kind"`
	Room string       `json:"room_id,omitempty"`

	// Before is the token at which a purge ends, "" for other kinds.
	Before string `json:"before,omitempty"`

	// DeleteLocalEvents says that a purge deletes the events of this server's users too.
	DeleteLocalEvents bool `json:"delete_local_events"`

	// Events is the number of events that the job deletes. It always was counted. For a
	// delete it includes the event with which each of Users leaves.
	Events int64 `json:"events"`

	// EventsKept is the number of events below a purge's end that stay: state events,
	// and local events unless they go too.
	EventsKept int64 `json:"events_kept"`

	// Tables are the rows that the job deletes, by table of the homeserver's. The rows
	// that the departure of Users adds do not count.
	Tables map[string]Figure `json:"tables"`

	// StateGroups are the state groups that become unused, with the bytes of their states.
	// Beside a running Synapse a purge leaves them to it; then Tables does not have their
	// rows. StateRowsWritten is the number of rows that other groups take over from them, 0
	// if that was not counted.
	StateGroups      Figure `json:"state_groups"`
	StateRowsWritten int64  `json:"state_rows_written"`

	// EstimatedBytes is the sum of those of Tables. The space becomes free for new rows;
	// the server does not give it back to the disk.
	EstimatedBytes int64 `json:"estimated_bytes"`

	// Media is how many of the deleted events refer to media, which stay. It was
	// counted, except in encrypted events.
	Media int64 `json:"media"`

	// Users are the users of this server whom a delete removes, Aliases the room's
	// aliases, and Servers the other servers with users in the room. Each list has up to
	// 100. The counts are of all.
	Users        []string `json:"users"`
	UsersCount   int64    `json:"users_count"`
	Aliases      []string `json:"aliases"`
	AliasesCount int64    `json:"aliases_count"`
	Servers      []string `json:"servers"`
	ServersCount int64    `json:"servers_count"`

	// Rooms are the rooms in which a sweep would make a job, those with the most events
	// first, up to 100. RoomsCount is how many there are. Skipped counts the rooms that
	// the sweep would skip, by reason. They are nil for other kinds.
	Rooms      []RoomPlan       `json:"rooms,omitempty"`
	RoomsCount int64            `json:"rooms_count,omitempty"`
	Skipped    map[string]int64 `json:"skipped,omitempty"`

	// Seconds is how long the job takes once it has begun, by the rate of jobs that have
	// ended. Measured is false if there were none to measure; then it is a guess.
	Seconds  float64 `json:"estimated_seconds"`
	Measured bool    `json:"measured"`

	// Warnings are sentences for the operator.
	Warnings []string `json:"warnings"`

	// Digest names the plan. [Planner.Check] compares it with a later state of the room.
	Digest string `json:"digest"`
}

// A RoomPlan is what a sweep would do with a room.
type RoomPlan struct {
	Room   string `json:"room_id"`
	Events int64  `json:"events"`
}

// Options are the options of a [Planner].
type Options struct {
	// Beside reports whether jobs do what a running Synapse needs. Defaults to nil: no
	// Synapse runs.
	Beside func() bool

	// Footprint are the options of the queries. Its ServerName has no default.
	Footprint footprint.Options

	// Purger says what purges and deletes do in this database. It has no default.
	Purger *purge.Purger

	// Retention are the settings of sweeps. Defaults to none: then no sweep can be
	// planned.
	Retention retention.Config
}

// A Planner makes plans. It is safe for concurrent use.
type Planner struct {
	db        *postgres.DB
	options   Options
	admin     *admin.Queries
	expiry    *expiry.Queries
	footprint *footprint.Queries
}

// New returns a Planner for the database.
func New(db *postgres.DB, options Options) *Planner {
	return &Planner{
		db: db, options: options, admin: admin.New(db), expiry: expiry.New(db),
		footprint: footprint.New(db, options.Purger, options.Footprint),
	}
}

// Plan returns the plan of a job. It fails with [ErrRequest] if no job can do what is
// requested, with [ErrWrongRoom], with [postgres.ErrNotFound] if the room or the event is
// unknown or nothing has arrived before the time, and with [purge.ErrCatalog] if the
// job would.
func (p *Planner) Plan(ctx context.Context, request Request) (Plan, error) {
	var plan Plan
	err := checkRequest(request)
	if err == nil {
		switch request.Kind {
		case jobs.PurgeHistory:
			plan, err = p.planPurge(ctx, request)
		case jobs.DeleteRoom:
			plan, err = p.planDelete(ctx, request)
		case jobs.RetentionSweep:
			plan, err = p.planRetention(ctx, request)
		case jobs.AbandonedSweep:
			plan, err = p.planAbandoned(ctx, request)
		default:
			err = fmt.Errorf("%w: %.100q is not a kind of job", ErrRequest, request.Kind)
		}
	}
	if err != nil {
		return Plan{}, fmt.Errorf("plan a job: %w", err)
	}
	return plan, nil
}

func checkRequest(request Request) error {
	sweeps := request.Kind == jobs.RetentionSweep || request.Kind == jobs.AbandonedSweep
	switch {
	case sweeps && request.Room != "":
		return fmt.Errorf("%w: a sweep has no room", ErrRequest)
	case !sweeps && request.Room == "":
		return fmt.Errorf("%w: no room is named", ErrRequest)
	case !postgres.Storable(request.Room) || !postgres.Storable(request.BeforeEvent):
		return postgres.ErrNotFound
	}
	return nil
}

// Token returns the token at which a purge ends, of which only the topological part
// counts: all events of that depth stay. Its errors are those of [Planner.Plan].
func (p *Planner) Token(ctx context.Context, request Request) (token matrix.Token, err error) {
	switch {
	case request.BeforeEvent != "":
		var room string
		room, token, err = p.admin.EventPosition(ctx, request.BeforeEvent)
		if err == nil && room != request.Room {
			err = ErrWrongRoom
		}
	case request.BeforeTime != nil:
		token, err = p.admin.TokenAtTimestamp(ctx, request.Room, *request.BeforeTime)
	case request.Before == matrix.Token{}:
		err = fmt.Errorf("%w: a purge needs an event or a time before which it deletes", ErrRequest)
	default:
		token = request.Before
	}
	return token, err
}

func (p *Planner) planPurge(ctx context.Context, request Request) (Plan, error) {
	token, err := p.Token(ctx, request)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Kind: request.Kind, Room: request.Room, Before: token.String(), DeleteLocalEvents: request.DeleteLocalEvents}
	history := p.history(request, token)
	err = p.footprint.History(ctx, request.Exact, func(ctx context.Context, s *footprint.Snapshot) error {
		events, err := s.HistoryEvents(ctx, history)
		if err != nil {
			return err
		}
		loss, err := s.HistoryLoss(ctx, history, events)
		if err != nil {
			return err
		}
		plan.take(events, loss)
		plan.Digest = digestOf(request, token, events)
		facts, err := p.ofRoom(ctx, s, &plan)
		if err != nil {
			return err
		}
		plan.warn(facts)
		plan.warnOfPurge(request, token, events, facts)
		return nil
	})
	return plan, err
}

func (p *Planner) history(request Request, token matrix.Token) purge.HistoryRequest {
	return purge.HistoryRequest{
		Room: request.Room, Before: token.Topological, DeleteLocal: request.DeleteLocalEvents,
		ServerName: p.options.Footprint.ServerName, KeepMappings: p.options.Beside != nil && p.options.Beside(),
	}
}

func (p *Planner) planDelete(ctx context.Context, request Request) (Plan, error) {
	plan := Plan{Kind: request.Kind, Room: request.Room}
	err := p.footprint.Delete(ctx, request.Exact, func(ctx context.Context, s *footprint.Snapshot) error {
		events, err := s.RoomEvents(ctx, request.Room)
		if err != nil {
			return err
		}
		loss, err := s.RoomLoss(ctx, request.Room, events)
		if err != nil {
			return err
		}
		plan.take(events, loss)
		plan.Digest = digestOf(request, matrix.Token{}, events)
		facts, err := p.ofRoom(ctx, s, &plan)
		if err != nil {
			return err
		}
		plan.Users, plan.UsersCount = facts.Users, facts.UsersCount
		plan.Events += facts.UsersCount // each leaves with an event
		plan.warn(facts)
		plan.warnOfDelete(facts)
		return nil
	})
	return plan, err
}

// take sets the figures of a plan.
func (plan *Plan) take(events footprint.Events, loss footprint.Loss) {
	plan.Events, plan.EventsKept, plan.Media = events.Deleted, events.Kept, events.WithURL
	plan.Tables, plan.StateGroups, plan.StateRowsWritten = loss.Tables, loss.StateGroups, loss.StateRowsWritten
	plan.Users, plan.Warnings = []string{}, []string{}
	for _, figure := range loss.Tables {
		plan.EstimatedBytes += figure.EstimatedBytes
	}
}

// ofRoom sets what a plan says of the room, and returns the facts for its warnings. A
// room that nothing is known of is [postgres.ErrNotFound].
func (p *Planner) ofRoom(ctx context.Context, s *footprint.Snapshot, plan *Plan) (footprint.Facts, error) {
	facts, err := s.Facts(ctx, plan.Room)
	if err != nil {
		return footprint.Facts{}, err
	}
	if !facts.Exists && plan.Events+plan.EventsKept == 0 {
		return footprint.Facts{}, postgres.ErrNotFound
	}
	plan.Aliases, plan.AliasesCount = facts.Aliases, facts.AliasesCount
	plan.Servers, plan.ServersCount = facts.Servers, facts.ServersCount
	return facts, p.estimate(ctx, s, plan)
}

// estimate sets the plan's time. A sweep takes as long as the jobs that it makes, one
// after another.
func (p *Planner) estimate(ctx context.Context, s *footprint.Snapshot, plan *Plan) error {
	kind := plan.Kind
	switch kind {
	case jobs.RetentionSweep:
		kind = jobs.PurgeHistory
	case jobs.AbandonedSweep:
		kind = jobs.DeleteRoom
	}
	rate, err := s.Rate(ctx, string(kind))
	if err != nil {
		return err
	}
	plan.Seconds = rate.JobSeconds*float64(max(plan.RoomsCount, 1)) + float64(plan.Events)/rate.EventsPerSecond
	plan.Measured = rate.Measured
	return nil
}
