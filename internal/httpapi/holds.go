package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

const (
	// maxReason is the maximum length of a hold's reason in characters.
	maxReason = 1000

	// maxHolds is the maximum number of holds in a list, the latest ones.
	maxHolds = 10_000
)

// errBatchRuns is the refusal to change a hold while a long batch deletes from the room.
var errBatchRuns = &wire.Error{
	Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED",
	Text: "A batch of the room is at work, and nothing was changed", RetryAfter: 2000,
}

// A holdBody is the body of a hold. Times are in Unix milliseconds.
type holdBody struct {
	Room       string `json:"room_id"`
	Reason     string `json:"reason"`
	PlacedBy   string `json:"placed_by"`
	PlacedAt   int64  `json:"placed_at"`
	ReleasedBy string `json:"released_by,omitempty"`
	ReleasedAt int64  `json:"released_at,omitempty"`
}

func newHoldBody(hold journal.Hold) holdBody {
	body := holdBody{
		Room: hold.Room, Reason: hold.Reason, PlacedBy: hold.PlacedBy, PlacedAt: hold.PlacedAt.UnixMilli(),
		ReleasedBy: hold.ReleasedBy,
	}
	if !hold.ReleasedAt.IsZero() {
		body.ReleasedAt = hold.ReleasedAt.UnixMilli()
	}
	return body
}

// holdList is GET /_lethe/v1/holds. With released=true the list includes released holds.
func (s *server) holdList(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	released := q.Boolean("released")
	if err := q.Err(); err != nil {
		return err
	}
	holds, err := s.holds.List(c.Request().Context(), released != nil && *released, maxHolds)
	if err != nil {
		return err
	}
	bodies := make([]holdBody, 0, len(holds))
	for _, hold := range holds {
		bodies = append(bodies, newHoldBody(hold))
	}
	return wire.AnswerOK(c, map[string][]holdBody{"holds": bodies}, nil)
}

// roomHold is GET /_lethe/v1/holds/{room_id}.
func (s *server) roomHold(c echo.Context, _ string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	hold, err := s.holds.Of(c.Request().Context(), room)
	return answerHold(c, room, hold, err)
}

// placeHold is PUT /_lethe/v1/holds/{room_id}. The body has the reason. After the answer
// nothing of the room is deleted until the hold is released.
func (s *server) placeHold(c echo.Context, requester string) error {
	body, err := wire.ReadSomeObject(c)
	if err != nil {
		return err
	}
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	var reason *string
	if value, ok := body["reason"]; !ok {
		return wire.MissingParam("Missing params: ['reason']")
	} else if json.Unmarshal(value, &reason) != nil || reason == nil || *reason == "" || utf8.RuneCountInString(*reason) > maxReason {
		return wire.BadJSON(fmt.Sprintf("Param 'reason' must be a string of 1 to %d characters", maxReason))
	}
	hold, err := s.holds.Place(c.Request().Context(), room, *reason, requester)
	if errors.Is(err, journal.ErrExists) {
		return wire.New(http.StatusConflict, "M_UNKNOWN", "The room is held for another reason: "+hold.Reason)
	}
	return answerHold(c, room, hold, err)
}

// releaseHold is DELETE /_lethe/v1/holds/{room_id}.
func (s *server) releaseHold(c echo.Context, requester string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	hold, err := s.holds.Release(c.Request().Context(), room, requester)
	return answerHold(c, room, hold, err)
}

func answerHold(c echo.Context, room string, hold journal.Hold, err error) error {
	err = wire.Instead(err, postgres.ErrNotFound, wire.NotFound("The room "+room+" is not held"))
	return wire.AnswerOK(c, newHoldBody(hold), wire.Instead(err, journal.ErrBatchRuns, errBatchRuns))
}

// refuseHeld refuses to delete from a room that is held. A job that was accepted before
// the hold is not refused, but waits.
func (s *server) refuseHeld(ctx context.Context, room string) error {
	hold, err := s.holds.Of(ctx, room)
	switch {
	case errors.Is(err, postgres.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return wire.Forbidden("The room " + hold.Room + " is held, and nothing of it may be deleted: " + hold.Reason)
}

// holdReason returns the reason of the room's hold if a job's state is held, else "".
func (s *server) holdReason(ctx context.Context, room string, state journal.State) (string, error) {
	if !slices.Contains(waitingStates, state) {
		return "", nil
	}
	hold, err := s.holds.Of(ctx, room)
	if errors.Is(err, postgres.ErrNotFound) { // released a moment ago
		return "", nil
	}
	return hold.Reason, err
}
