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
	request.Room = segment(c, "room_id")
	if err := readPageQuery(queryOf(c), &request); err != nil {
		return err
	}
	begun := time.Now()
	page, err := s.options.Messages.Page(c.Request().Context(), request)
	s.observePage(request.All, begun)
	if err != nil {
		return pageError(err, request.Reader, request.Room)
	}
	return answerPage(c, page)
}

func (s *server) observePage(admin bool, begun time.Time) {
	if s.options.ObservePage != nil {
		s.options.ObservePage(admin, time.Since(begun))
	}
}

// readPageQuery reads the parameters of a page. It checks them in Synapse's order.
func readPageQuery(q wire.Query, request *messages.Request) (err error) {
	if request.Backwards, err = q.Backwards(); err != nil {
		return err
	}
	from, err := q.ASCII("from")
	if err != nil {
		return err
	}
	to, err := q.ASCII("to")
	if err != nil {
		return err
	}
	if from == "END" { // the start of the timeline in the first version of the API
		from = ""
	}
	if request.From, err = pageToken("from", from); err != nil {
		return err
	}
	if request.To, err = pageToken("to", to); err != nil {
		return err
	}
	if request.Limit, err = pageLimit(q); err != nil {
		return err
	}
	if request.Filter, err = pageFilter(q); err != nil {
		return err
	}
	_, request.Raw = q.Value("raw")
	return nil
}

// pageToken parses a parameter that is a page token, nil if it is empty.
func pageToken(name, value string) (*matrix.PageToken, error) {
	if value == "" {
		return nil, nil
	}
	token, err := matrix.ParsePageToken(value)
	if err != nil {
		return nil, wire.BadRequest("'" + name + "' parameter is invalid")
	}
	return &token, nil
}

// pageLimit reads the parameter limit.
func pageLimit(q wire.Query) (int, error) {
	limit, err := q.Integer("limit", defaultLimit)
	return int(min(limit, maxLimit)), err
}

// pageFilter reads the parameter filter.
func pageFilter(q wire.Query) (messages.Filter, error) {
	value, ok, err := q.TextUnescapedTwice("filter")
	if err != nil || !ok {
		return messages.Filter{}, err
	}
	filter, err := messages.ParseFilter([]byte(value))
	switch {
	case errors.Is(err, messages.ErrFilterJSON):
		return messages.Filter{}, &wire.Error{
			Status: http.StatusBadRequest, Code: "M_NOT_JSON", Text: "Query parameter filter must be a valid JSON object",
		}
	case err != nil:
		return messages.Filter{}, wire.BadJSON("Query parameter filter must be a JSON object")
	}
	return filter, nil
}

// pageError returns the refusal for an error of package messages.
func pageError(err error, reader messages.Reader, room string) error {
	switch {
	case errors.Is(err, messages.ErrForbidden):
		return &wire.Error{
			Status: http.StatusForbidden, Code: "M_FORBIDDEN",
			Text: "User " + reader.UserID + " not in room " + room + ", and room previews are disabled",
		}
	case errors.Is(err, lock.ErrTaken):
		return fmt.Errorf("%w: %w", errRoomBusy, err)
	}
	return err
}

// answerPage writes a page. Its events are JSON already. They are copied once.
func answerPage(c echo.Context, page messages.Page) error {
	body := newObject(page.Chunk, page.State)
	body.list("chunk", page.Chunk)
	body.text("start", page.Start.String())
	if page.End != nil {
		body.text("end", page.End.String())
	}
	if len(page.State) > 0 {
		body.list("state", page.State)
	}
	return body.answer(c)
}
