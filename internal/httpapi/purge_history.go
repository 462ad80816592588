package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/operator"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/tasks"
	"lethe/internal/wire"
)

// purgeHistory is POST …/v1/purge_history/{room_id}. The body has the event or the time
// up to which history is purged.
func (s *server) purgeHistory(c echo.Context, requester string) error {
	body, err := wire.ReadObject(c)
	if err != nil {
		return err
	}
	ctx, room := c.Request().Context(), wire.Segment(c, "room_id")
	event := body["purge_up_to_event_id"]
	ts, hasTS := body["purge_up_to_ts"]
	var token matrix.Token
	var point jobs.PurgePoint
	switch {
	case len(event) > 0 && !bytes.Equal(event, []byte("null")):
		if err := json.Unmarshal(event, &point.BeforeEvent); err != nil {
			return wire.BadJSON("purge_up_to_event_id must be a string")
		}
		token, err = s.tokenOfEvent(ctx, room, point.BeforeEvent)
	case hasTS:
		before, ok := matrix.Integer(ts)
		if !ok {
			return wire.BadJSON("purge_up_to_ts must be an int")
		}
		point.BeforeTime = &before
		token, err = s.tokenOfTimestamp(ctx, room, before)
	default:
		err = wire.BadJSON("must specify purge_up_to_event_id or purge_up_to_ts")
	}
	if err != nil {
		return err
	}
	purge := tasks.PurgeHistory{Room: room, Token: token, PurgePoint: point, Requester: requester}
	return s.submitPurgeHistory(c, purge, body)
}

// purgeHistoryBeforeEvent is POST …/v1/purge_history/{room_id}/{event_id}. An event or a
// time in the body is ignored.
func (s *server) purgeHistoryBeforeEvent(c echo.Context, requester string) error {
	body, err := wire.ReadObject(c)
	if err != nil {
		return err
	}
	room := wire.Segment(c, "room_id")
	event := wire.Segment(c, "event_id")
	token, err := s.tokenOfEvent(c.Request().Context(), room, event)
	if err != nil {
		return err
	}
	purge := tasks.PurgeHistory{Room: room, Token: token, PurgePoint: jobs.PurgePoint{BeforeEvent: event}, Requester: requester}
	return s.submitPurgeHistory(c, purge, body)
}

func (s *server) tokenOfEvent(ctx context.Context, room, event string) (matrix.Token, error) {
	itsRoom, token, err := s.queries.EventPosition(ctx, event)
	if err == nil && itsRoom != room {
		err = wire.BadRequest("Event is for wrong room.")
	}
	return token, wire.Instead(err, postgres.ErrNotFound, wire.NotFound("Could not find event "+event))
}

func (s *server) tokenOfTimestamp(ctx context.Context, room string, ts int64) (matrix.Token, error) {
	token, err := s.queries.TokenAtTimestamp(ctx, room, ts)
	return token, wire.Instead(err, postgres.ErrNotFound, wire.NotFound("there is no event to be purged"))
}

// submitPurgeHistory accepts a purge, if this is the time for it.
func (s *server) submitPurgeHistory(c echo.Context, purge tasks.PurgeHistory, body map[string]json.RawMessage) error {
	ctx := c.Request().Context()
	if err := s.refuseHeld(ctx, purge.Room); err != nil {
		return err
	}
	if err := s.refuseBusyHomeserver(ctx, purge.Room); err != nil {
		return err
	}
	purge.DeleteLocalEvents, purge.Exclusive = matrix.Truthy(body["delete_local_events"]), s.options.SeedDialect
	purge.Grace = s.options.Grace
	id, err := s.tasks.SubmitPurgeHistory(ctx, purge)
	return wire.AnswerOK(c, map[string]string{"purge_id": id},
		wire.Instead(err, journal.ErrRoomBusy, historyPurgeInProgress(purge.Room)))
}

// purgeHistoryStatus is GET …/v1/purge_history_status/{purge_id}.
func (s *server) purgeHistoryStatus(c echo.Context, _ string) error {
	id := wire.Segment(c, "purge_id")
	ctx := c.Request().Context()
	status, err := s.jobs.Status(ctx, jobs.PurgeHistory, id)
	if errors.Is(err, jobs.ErrNotFound) {
		var task scheduledtasks.Task
		task, err = s.homeserverTask(ctx, id, scheduledtasks.PurgeHistory)
		status.State, status.Error = stateOf(task)
	}
	if err != nil {
		return wire.Instead(err, jobs.ErrNotFound, wire.NotFound("purge id '"+id+"' not found"))
	}
	var body struct {
		Status string `json:"status"`
		Error  string `json:"error,omitempty"`
		Held   string `json:"held,omitempty"` // the hold's reason

		// WaitsFor says what the purge waits for, "" if it runs or only waits for its turn.
		WaitsFor string `json:"waits_for,omitempty"`

		// AbsorbedBy is the id of the purge that does the work of this one.
		AbsorbedBy string `json:"absorbed_by,omitempty"`

		Progress *jobs.PurgeProgress `json:"progress,omitempty"`
	}
	body.Progress = status.PurgeProgress()
	if body.AbsorbedBy, err = tasks.AbsorberOf([]byte(status.Progress)); err != nil {
		return err
	}
	// Admin tools know these three words. They poll until it is one of the last two.
	switch status.State {
	case journal.Complete:
		body.Status = "complete"
	case journal.Failed:
		body.Status, body.Error = "failed", status.Error
	case journal.Cancelled:
		body.Status, body.Error = "failed", "cancelled"
	default:
		body.Status, body.WaitsFor = "active", s.waitsFor(ctx, status)
		body.Held, err = s.holdReason(ctx, status.Room, status.State)
	}
	return wire.AnswerOK(c, body, err)
}

// waitsFor returns what a job waits for that has not ended, "" if it works or only waits
// for its turn.
func (s *server) waitsFor(ctx context.Context, status jobs.Status) string {
	if status.WaitsFor == "" && status.State == journal.Queued && s.options.Operator != nil && !s.options.Operator.Alive(ctx) {
		return operator.NoWorker
	}
	return status.WaitsFor
}
