package operator

import (
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/plan"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/wire"
)

var errBadPlan = wire.InvalidParam("'plan' must be the digest of a plan")

// plan is POST /_lethe/v1/plans.
func (o *Operator) plan(c echo.Context, _ string) error {
	var body PlanRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	ctx := c.Request().Context()
	request, err := o.request(ctx, body)
	if err != nil {
		return err
	}
	planned, err := o.planner.Plan(ctx, request)
	return wire.AnswerOK(c, planned, refusal(err, body))
}

// request reads what is to be planned, or done. A purge's end becomes a token.
func (o *Operator) request(ctx context.Context, r PlanRequest) (plan.Request, error) {
	request := plan.Request{
		Kind: journal.Kind(r.Kind), Room: r.Room, BeforeEvent: r.BeforeEvent, DeleteLocalEvents: r.DeleteLocal, Name: r.Name, Exact: r.Exact,
	}
	if err := oneOf("kind", []string{r.Kind}, kinds()); err != nil {
		return request, err
	}
	ofRoom := request.Kind == jobs.PurgeHistory || request.Kind == jobs.DeleteRoom
	if ofRoom {
		if err := wire.CheckRoomID(r.Room); err != nil {
			return request, err
		}
	}
	switch {
	case ofRoom && r.Name != "":
		return request, wire.InvalidParam("'name' is for a sweep")
	case !ofRoom && r.Room != "":
		return request, wire.InvalidParam("'room_id' is not for a sweep")
	case request.Kind != jobs.PurgeHistory && (r.BeforeEvent != "" || r.BeforeTime != nil || r.DeleteLocal):
		return request, wire.InvalidParam("'before_event_id', 'before_ts' and 'delete_local_events' are for a purge")
	case request.Kind != jobs.PurgeHistory:
		return request, nil
	case r.BeforeEvent != "" && r.BeforeTime != nil:
		return request, wire.InvalidParam("'before_event_id' and 'before_ts' exclude each other")
	case r.BeforeEvent == "" && r.BeforeTime == nil:
		return request, wire.MissingParam("Missing params: ['before_event_id'] or ['before_ts']")
	case r.BeforeTime != nil:
		if err := checkTime("before_ts", *r.BeforeTime); err != nil {
			return request, err
		}
		request.BeforeTime = r.BeforeTime
	}
	token, err := o.planner.Token(ctx, request)
	if errors.Is(err, postgres.ErrNotFound) {
		if known, lookErr := o.queries.KnowsRoom(ctx, r.Room); lookErr == nil && !known {
			return request, noRoom(r.Room)
		}
	}
	if err != nil {
		return request, refusal(err, r)
	}
	request.Before, request.BeforeEvent, request.BeforeTime = token, "", nil
	return request, nil
}

// refusal returns the refusal of what a plan refuses, and other errors as they are.
func refusal(err error, r PlanRequest) error {
	switch {
	case errors.Is(err, plan.ErrWrongRoom):
		return wire.BadRequest("Event is for wrong room.")
	case errors.Is(err, postgres.ErrNotFound) && r.BeforeEvent != "":
		return wire.NotFound("Could not find event " + r.BeforeEvent)
	case errors.Is(err, postgres.ErrNotFound) && r.BeforeTime != nil:
		return wire.NotFound("there is no event to be purged")
	case errors.Is(err, postgres.ErrNotFound):
		return noRoom(r.Room)
	case errors.Is(err, plan.ErrRequest):
		return wire.BadRequest(err.Error())
	}
	return unknownTables(err)
}

// unknownTables returns the refusal of a database with tables that Lethe does not know,
// and other errors as they are. Jobs fail there with the same text.
func unknownTables(err error) error {
	if errors.Is(err, purge.ErrCatalog) {
		return wire.New(http.StatusConflict, "M_UNKNOWN", err.Error())
	}
	return err
}

// checkPlan refuses a job whose room has drifted from the plan. The worker checks it once
// more before it begins.
func (o *Operator) checkPlan(ctx context.Context, request plan.Request, a Acceptance) error {
	if a.Plan == "" {
		return nil
	}
	err := o.planner.Check(ctx, request, a.Plan, a.Tolerance)
	var drift *plan.Drift
	switch {
	case errors.As(err, &drift):
		return wire.New(http.StatusConflict, "M_UNKNOWN", drift.Error())
	case errors.Is(err, plan.ErrOtherJob):
		return wire.New(http.StatusConflict, "M_UNKNOWN", "The plan is not of this job: "+plan.ErrOtherJob.Error())
	case errors.Is(err, plan.ErrDigest):
		return errBadPlan
	}
	return unknownTables(err)
}
