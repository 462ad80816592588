package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/lock"
	"lethe/internal/matrix"
	"lethe/internal/messages"
	"lethe/internal/wire"
)

const (
	// defaultLimit is the number of events in a page if the request has no limit, and
	// maxLimit the maximum.
	defaultLimit = 10
	maxLimit     = 1000
)

// errRoomBusy is the refusal of a reader who could not enter the room because of a purge.
// Clients that know the code try again after the given wait. Other clients try again
// because of the status.
var errRoomBusy = &wire.Error{
	Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED", Text: "The room is being purged", RetryAfter: 2000,
}

// errPagesBusy is the refusal of a page while other pages take all memory.
var errPagesBusy = &wire.Error{
	Status: http.StatusServiceUnavailable, Code: "M_LIMIT_EXCEEDED", Text: "Too many pages are being read", RetryAfter: 2000,
}

// messages is GET /_matrix/client/…/rooms/{room_id}/messages.
func (s *server) messages(c echo.Context, reader messages.Reader) error {
	return s.page(c, messages.Request{Reader: reader})
}

// allMessages is GET …/v1/rooms/{room_id}/messages.
func (s *server) allMessages(c echo.Context, reader messages.Reader) error {
	return s.page(c, messages.Request{Reader: reader, All: true})
}

// page answers with a page of a room.
func (s *server) page(c echo.Context, request messages.Request) error {
	request.Room = wire.Segment(c, "room_id")
	if err := readPageQuery(wire.QueryOf(c), &request); err != nil {
		return err
	}
	if !request.All {
		done, err := s.turns.take(c.Request().Context(), request.Reader.UserID, request.Filter.Selects())
		if err != nil {
			return err
		}
		defer done()
	}
	begun := time.Now()
	page, err := s.options.Messages.Page(c.Request().Context(), request)
	s.observePage(request.All, begun)
	if err != nil {
		return pageError(err, request.Reader, request.Room)
	}
	defer page.Release()
	return s.answerPage(c, page)
}

func (s *server) observePage(admin bool, begun time.Time) {
	if s.options.ObservePage != nil {
		s.options.ObservePage(admin, time.Since(begun))
	}
}

// readPageQuery reads the parameters of a page. It checks them in Synapse's order.
func readPageQuery(q *wire.Query, request *messages.Request) error {
	request.Backwards = q.Backwards()
	from, to := q.ASCII("from"), q.ASCII("to")
	if from == "END" { // the start of the timeline in the first version of the API
		from = ""
	}
	request.From, request.To = pageToken(q, "from", from), pageToken(q, "to", to)
	request.Limit, request.Filter = pageLimit(q), pageFilter(q)
	_, request.Raw = q.Value("raw")
	return q.Err()
}

// pageToken parses a parameter that is a page token, nil if it is empty.
func pageToken(q *wire.Query, name, value string) *matrix.PageToken {
	if value == "" {
		return nil
	}
	token, err := matrix.ParsePageToken(value)
	if err != nil {
		q.Refuse(wire.BadRequest("'" + name + "' parameter is invalid"))
	}
	return &token
}

// pageLimit reads the parameter limit.
func pageLimit(q *wire.Query) int { return int(min(q.Integer("limit", defaultLimit), maxLimit)) }

// pageFilter reads the parameter filter.
func pageFilter(q *wire.Query) messages.Filter {
	value, _ := q.TextUnescapedTwice("filter") // an empty filter selects all, as none does
	filter, err := messages.ParseFilter([]byte(value))
	switch {
	case errors.Is(err, messages.ErrFilterJSON):
		q.Refuse(wire.New(http.StatusBadRequest, "M_NOT_JSON", "Query parameter filter must be a valid JSON object"))
	case err != nil:
		q.Refuse(wire.BadJSON("Query parameter filter must be a JSON object"))
	}
	return filter
}

// pageError returns the refusal for an error of package messages.
func pageError(err error, reader messages.Reader, room string) error {
	switch {
	case errors.Is(err, messages.ErrForbidden):
		return wire.Forbidden("User " + reader.UserID + " not in room " + room + ", and room previews are disabled")
	case errors.Is(err, lock.ErrTaken):
		return fmt.Errorf("%w: %w", errRoomBusy, err)
	case errors.Is(err, messages.ErrBusy):
		return fmt.Errorf("%w: %w", errPagesBusy, err)
	}
	return err
}

// answerPage writes a page. Its events are JSON already.
func (s *server) answerPage(c echo.Context, page messages.Page) error {
	body := newObject(page.Chunk, page.State)
	body.list("chunk", page.Chunk)
	body.text("start", page.Start.String())
	if page.End != nil {
		body.text("end", page.End.String())
	}
	if len(page.State) > 0 {
		body.list("state", page.State)
	}
	return s.answerObject(c, body)
}

// answerObject writes a large object, within the time of the request.
func (s *server) answerObject(c echo.Context, body *objectBody) error {
	end := time.Now()
	if deadline, ok := c.Request().Context().Deadline(); ok {
		end = deadline
	}
	return body.answer(c, s.options.StallTimeout, end.Add(s.options.Timeout))
}
