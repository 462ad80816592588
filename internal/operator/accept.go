package operator

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/plan"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/tasks"
	"lethe/internal/wire"
)

// MaxGrace is the longest grace.
const MaxGrace = 365 * 24 * time.Hour

// purge is POST /_lethe/v1/purges.
func (o *Operator) purge(c echo.Context, who string) error {
	var body PurgeRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	ctx := c.Request().Context()
	request, acceptance, err := o.ofRoom(ctx, PlanRequest{
		Kind: string(jobs.PurgeHistory), Room: body.Room, BeforeEvent: body.BeforeEvent, BeforeTime: body.BeforeTime, DeleteLocal: body.DeleteLocal,
	}, body.Acceptance)
	if err != nil {
		return err
	}
	id, err := o.tasks.SubmitPurgeHistory(ctx, tasks.PurgeHistory{
		Room: body.Room, Token: request.Before, DeleteLocalEvents: body.DeleteLocal, Requester: who,
		PurgePoint: jobs.PurgePoint{BeforeEvent: body.BeforeEvent, BeforeTime: body.BeforeTime}, Acceptance: acceptance,
	})
	return o.accepted(c, id, nil, err)
}

// delete is POST /_lethe/v1/deletes.
func (o *Operator) delete(c echo.Context, who string) error {
	var body DeleteRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	ctx := c.Request().Context()
	if user := body.NewRoomUser; user != "" {
		if server, ok := matrix.ServerOf(user); !ok || server != o.options.ServerName || !matrix.ValidUserID(user) {
			return wire.BadRequest("User must be our own: " + user)
		}
		body.RoomName, body.Message = cmp.Or(body.RoomName, shutdown.DefaultRoomName), cmp.Or(body.Message, shutdown.DefaultMessage)
	}
	if !postgres.Storable(body.Message) || !postgres.Storable(body.RoomName) {
		return wire.BadJSON("Params 'message' and 'room_name' must not have a zero byte")
	}
	_, acceptance, err := o.ofRoom(ctx, PlanRequest{Kind: string(jobs.DeleteRoom), Room: body.Room}, body.Acceptance)
	if err != nil {
		return err
	}
	// A room can be blocked before this server has met it. Without a block the delete of
	// such a room would do nothing, so its id must be a mistake.
	var warnings []string
	switch known, err := o.queries.KnowsRoom(ctx, body.Room); {
	case err != nil:
		return err
	case !known && !body.Block:
		return noRoom(body.Room)
	case !known:
		warnings = append(warnings, noRoom(body.Room).Text+": the delete only blocks it")
	}
	purge := body.Purge == nil || *body.Purge
	id, err := o.tasks.SubmitDeleteRoom(ctx, tasks.DeleteRoom{
		Room: body.Room, Requester: who, NewRoomUser: body.NewRoomUser, RoomName: body.RoomName, Message: body.Message,
		Block: body.Block, Purge: purge, ForcePurge: body.ForcePurge && purge, PurgeDelay: o.options.PurgeDelay, Acceptance: acceptance,
	})
	return o.accepted(c, id, warnings, wire.Instead(err, journal.ErrRoomBusy, wire.New(http.StatusConflict, "M_UNKNOWN",
		"The room has a delete already")))
}

// sweep is POST /_lethe/v1/sweeps.
func (o *Operator) sweep(c echo.Context, who string) error {
	var body SweepRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	acceptance, err := o.acceptance(body.Acceptance)
	if err != nil {
		return err
	}
	if acceptance.Plan != nil {
		return wire.InvalidParam("A sweep takes no plan: it decides about each room when its turn comes")
	}
	names := o.options.RetentionJobs
	if body.Kind == string(jobs.AbandonedSweep) {
		names = slices.DeleteFunc([]string{o.options.AbandonedJob}, func(name string) bool { return name == "" })
	}
	if err := oneOf("kind", []string{body.Kind}, []string{string(jobs.RetentionSweep), string(jobs.AbandonedSweep)}); err != nil {
		return err
	}
	name := body.Name
	switch {
	case len(names) == 0:
		return wire.BadRequest("The settings have no job of that kind")
	case name == "" && len(names) == 1:
		name = names[0]
	case !slices.Contains(names, name):
		return wire.InvalidParam("'name' must be one of " + strings.Join(names, ", "))
	}
	ctx := c.Request().Context()
	var id string
	if body.Kind == string(jobs.AbandonedSweep) {
		id, err = o.tasks.SubmitAbandonedSweep(ctx, who, acceptance)
	} else {
		id, err = o.tasks.SubmitRetentionSweep(ctx, tasks.RetentionSweep{Job: name, Tick: time.Now(), Requester: who, Acceptance: acceptance})
	}
	return o.accepted(c, id, nil, err)
}

// noRoom is the refusal of a room of which there is nothing.
func noRoom(room string) *wire.Error { return wire.NotFound("The database knows no room " + room) }

// ofRoom reads what a job of a room is to do, and how it is to be accepted. It refuses a
// job for which this is not the time.
func (o *Operator) ofRoom(ctx context.Context, r PlanRequest, a Acceptance) (request plan.Request, accepted tasks.Acceptance, err error) {
	if accepted, err = o.acceptance(a); err != nil {
		return request, accepted, err
	}
	if request, err = o.request(ctx, r); err != nil {
		return request, accepted, err
	}
	if err := o.refuseBusy(ctx, r.Room); err != nil {
		return request, accepted, err
	}
	return request, accepted, o.checkPlan(ctx, request, a)
}

// acceptance reads how a job is to be accepted.
func (o *Operator) acceptance(a Acceptance) (tasks.Acceptance, error) {
	accepted := tasks.Acceptance{Grace: o.options.Grace, Reason: a.Reason}
	if a.Plan != "" {
		accepted.Plan = plan.Accepted{Digest: a.Plan, Tolerance: a.Tolerance}.Encode()
	}
	if a.Grace != "" {
		grace, err := time.ParseDuration(a.Grace)
		if err != nil || grace < 0 || grace > MaxGrace {
			return accepted, wire.InvalidParam("'grace' must be a duration such as 24h, of at most a year")
		}
		accepted.Grace = grace
	}
	switch {
	case a.Tolerance < 0:
		return accepted, wire.InvalidParam("'tolerance' must not be negative")
	case a.Tolerance > 0 && a.Plan == "":
		return accepted, wire.InvalidParam("'tolerance' is only for a job with a plan")
	case !postgres.Storable(a.Plan):
		return accepted, errBadPlan
	}
	return accepted, checkReason(a.Reason, false)
}

// refuseBusy refuses to delete from a room that is held, or that the homeserver itself is
// deleting.
func (o *Operator) refuseBusy(ctx context.Context, room string) error {
	hold, err := o.held.Of(ctx, room)
	if err == nil {
		return wire.Forbidden("The room " + room + " is held, and nothing of it may be deleted: " + hold.Reason)
	}
	if !errors.Is(err, postgres.ErrNotFound) {
		return err
	}
	task, err := o.others.Open(ctx, room, scheduledtasks.PurgeRoom, scheduledtasks.DeleteRoom)
	switch {
	case err == nil:
		return wire.New(http.StatusConflict, "M_UNKNOWN", "Synapse itself has a task for the room: "+task.Action+" "+task.ID)
	case errors.Is(err, postgres.ErrNotFound):
		return nil
	}
	return err
}

// accepted answers with the id of a job that was accepted.
func (o *Operator) accepted(c echo.Context, id string, warnings []string, err error) error {
	if err != nil {
		return err
	}
	row, err := o.control.Job(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return wire.Answer(c, http.StatusAccepted, Accepted{ID: id, State: string(row.State), Due: milliseconds(row.Due), Warnings: warnings})
}
