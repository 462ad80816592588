package operator

import (
	"errors"
	"fmt"
	"slices"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// MaxRows and MaxRunning are the largest limits of the fleet: rows per second, and jobs at a
// time.
const (
	MaxRows    = 10_000_000
	MaxRunning = 1000
)

// fleet is GET /_lethe/v1/fleet.
func (o *Operator) fleet(c echo.Context, _ string) error {
	ctx := c.Request().Context()
	limits, err := o.control.Limits(ctx)
	if err != nil {
		return err
	}
	answer := Fleet{Limits: make([]Limit, 0, len(limits))}
	for _, limit := range limits {
		answer.Limits = append(answer.Limits, limitOf(limit))
	}
	if o.options.Workers != nil {
		workers, err := o.options.Workers(ctx)
		if err != nil {
			return fmt.Errorf("list the workers: %w", err)
		}
		answer.Workers = new(append([]FleetWorker{}, workers...))
	}
	if o.options.Schedulers != nil {
		replicas, err := o.options.Schedulers(ctx)
		if err != nil {
			return err
		}
		schedulers := make([]FleetScheduler, 0, len(replicas))
		for _, replica := range replicas {
			schedulers = append(schedulers, FleetScheduler{Name: replica.Name, Started: milliseconds(replica.Started)})
		}
		answer.Schedulers = &schedulers
	}
	return wire.AnswerOK(c, answer, nil)
}

func limitOf(limit control.Limit) Limit {
	return Limit{
		Kind: string(limit.Kind), RowsPerSecond: limit.RowsPerSecond, Jobs: limit.Jobs, Who: limit.Who, Set: milliseconds(limit.Set),
	}
}

// setLimit is PUT /_lethe/v1/fleet/{kind}.
func (o *Operator) setLimit(c echo.Context, who string) error {
	var body LimitRequest
	// A body that was lost on its way would take all limits away.
	if err := wire.ReadSomeBody(c, &body); err != nil {
		return err
	}
	kind := wire.Segment(c, "kind")
	if !slices.Contains(kinds(), kind) {
		return wire.NotFound("There is no kind of job '" + kind + "'")
	}
	if err := errors.Join(inRange("rows_per_second", body.RowsPerSecond, MaxRows), inRange("jobs", body.Jobs, MaxRunning)); err != nil {
		return err
	}
	limit, err := o.control.SetLimit(c.Request().Context(), control.Limit{
		Kind: journal.Kind(kind), RowsPerSecond: body.RowsPerSecond, Jobs: body.Jobs, Who: who,
	})
	return wire.AnswerOK(c, limitOf(limit), err)
}

// inRange refuses a limit below 1. A pause is what stops a kind.
func inRange(name string, n *int, most int) error {
	if n != nil && (*n < 1 || *n > most) {
		return wire.InvalidParam(fmt.Sprintf("'%s' must be null or from 1 to %d", name, most))
	}
	return nil
}

// pauses is GET /_lethe/v1/pauses.
func (o *Operator) pauses(c echo.Context, _ string) error {
	pauses, err := o.control.Pauses(c.Request().Context())
	answer := Pauses{Pauses: make([]Pause, 0, len(pauses))}
	for _, pause := range pauses {
		answer.Pauses = append(answer.Pauses, pauseOf(pause))
	}
	return wire.AnswerOK(c, answer, err)
}

func pauseOf(pause control.Pause) Pause {
	return Pause{
		Scope: pause.Scope, Value: pause.Value, Who: pause.Who, Reason: pause.Reason,
		Set: milliseconds(pause.Set), Until: milliseconds(pause.Until),
	}
}

// setPause is PUT /_lethe/v1/pauses/{scope}/{value}.
func (o *Operator) setPause(c echo.Context, who string) error {
	var body PauseRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	ctx := c.Request().Context()
	scope, value, err := scopeOf(c)
	if err != nil {
		return err
	}
	if err := errors.Join(checkReason(body.Reason, true), checkTime("until_ts", body.Until)); err != nil {
		return err
	}
	if scope == control.ScopeJob {
		switch job, err := o.control.Job(ctx, value); {
		case err != nil:
			return wire.Instead(err, postgres.ErrNotFound, noJob(value))
		case job.State.Ended():
			return cannotBe(control.VerbPause, "it has ended, and is "+string(job.State))
		}
	}
	pause, err := o.control.SetPause(ctx, control.Pause{
		Scope: scope, Value: value, Who: who, Reason: body.Reason, Until: timeOf(body.Until),
	})
	return wire.AnswerOK(c, pauseOf(pause), wire.Instead(err, control.ErrUntil, errPast))
}

// liftPause is DELETE /_lethe/v1/pauses/{scope}/{value}.
func (o *Operator) liftPause(c echo.Context, who string) error {
	scope, value, err := scopeOf(c)
	if err != nil {
		return err
	}
	pause, err := o.control.LiftPause(c.Request().Context(), scope, value, who)
	return wire.AnswerOK(c, pauseOf(pause), wire.Instead(err, postgres.ErrNotFound, wire.NotFound("There is no pause of "+Paused(scope, value))))
}

// Paused returns what a pause covers, in words.
func Paused(scope, value string) string {
	switch scope {
	case "all":
		return "all jobs"
	case "kind":
		return "all jobs of the kind " + value
	}
	return "the " + scope + " " + value
}

// scopeOf returns what the path says is paused.
func scopeOf(c echo.Context) (scope, value string, err error) {
	scope, value = wire.Segment(c, "scope"), wire.Segment(c, "value")
	switch {
	case scope == "all" && value == "all":
	case scope == "kind" && slices.Contains(kinds(), value):
	case scope == "room" && wire.CheckRoomID(value) == nil:
	case scope == "job" && jobs.ValidID(value):
	default:
		err = wire.NotFound("There is nothing to pause that is called " + scope + " " + value +
			": it is job and an id, room and an id, kind and a kind of jobs, or all and all")
	}
	return scope, value, err
}
