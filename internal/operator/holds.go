package operator

import (
	"errors"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

const (
	// maxReason is the maximum length of a reason in characters.
	maxReason = 1000

	// maxHolds is the maximum number of holds in a list, the latest ones.
	maxHolds = 10_000
)

// errBatchRuns is the refusal to change a hold while a long batch deletes from the room.
var errBatchRuns = &wire.Error{
	Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED",
	Text: "A batch of the room is at work, and nothing was changed", RetryAfter: 2000,
}

func holdOf(hold journal.Hold) Hold {
	return Hold{
		Room: hold.Room, Reason: hold.Reason, PlacedBy: hold.PlacedBy, PlacedAt: milliseconds(hold.PlacedAt),
		ReleasedBy: hold.ReleasedBy, ReleasedAt: milliseconds(hold.ReleasedAt),
	}
}

// holdList is GET /_lethe/v1/holds. With released=true the list includes lifted holds.
func (o *Operator) holdList(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	released := q.Boolean("released")
	if err := q.Err(); err != nil {
		return err
	}
	holds, err := o.held.List(c.Request().Context(), released != nil && *released, maxHolds)
	if err != nil {
		return err
	}
	answer := Holds{Holds: make([]Hold, 0, len(holds))}
	for _, hold := range holds {
		answer.Holds = append(answer.Holds, holdOf(hold))
	}
	return wire.AnswerOK(c, answer, nil)
}

// hold is GET /_lethe/v1/holds/{room_id}.
func (o *Operator) hold(c echo.Context, _ string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	hold, err := o.held.Of(c.Request().Context(), room)
	return answerHold(c, room, hold, err)
}

// setHold is PUT /_lethe/v1/holds/{room_id}. The body has the reason. After the answer
// nothing of the room is deleted until the hold is lifted.
func (o *Operator) setHold(c echo.Context, who string) error {
	var body HoldRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	if err := checkReason(body.Reason, true); err != nil {
		return err
	}
	hold, err := o.held.Place(c.Request().Context(), room, body.Reason, who)
	if errors.Is(err, journal.ErrExists) {
		return wire.New(http.StatusConflict, "M_UNKNOWN", "The room is held for another reason: "+hold.Reason)
	}
	return answerHold(c, room, hold, err)
}

// checkReason refuses a reason that is too long, or that is needed and absent.
func checkReason(reason string, needed bool) error {
	switch n := utf8.RuneCountInString(reason); {
	case needed && n == 0:
		return wire.MissingParam("Missing params: ['reason']")
	case n > maxReason:
		return wire.BadJSON(fmt.Sprintf("Param 'reason' must be a string of 1 to %d characters", maxReason))
	case !postgres.Storable(reason):
		return wire.BadJSON("Param 'reason' must not have a zero byte")
	}
	return nil
}

// liftHold is DELETE /_lethe/v1/holds/{room_id}.
func (o *Operator) liftHold(c echo.Context, who string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	hold, err := o.held.Release(c.Request().Context(), room, who)
	return answerHold(c, room, hold, err)
}

func answerHold(c echo.Context, room string, hold journal.Hold, err error) error {
	err = wire.Instead(err, postgres.ErrNotFound, wire.NotFound("The room "+room+" is not held"))
	return wire.AnswerOK(c, holdOf(hold), wire.Instead(err, journal.ErrBatchRuns, errBatchRuns))
}
