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
	// defaultLimit and mostLimit are how many events a page has, unless the
	// request says, and at most.
	defaultLimit = 10
	mostLimit    = 1000
)

// errRoomBusy is for one who waited for a purge in vain. The code is the one that
// clients take for a request to come again, and after which wait; the status says
// whose fault it is, and makes those come again that do not look at the code.
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

// page answers with a page of the room for the request's reader.
func (s *server) page(c echo.Context, request messages.Request) error {
	request.Room = segment(c, "room_id")
	if err := readPageQuery(queryOf(c), &request); err != nil {
		return err
	}
	begun := time.Now()
	page, err := s.options.Messages.Page(c.Request().Context(), request)
	s.observePage(request.All, begun)
	if err != nil {
		return refusePage(err, request.Reader, request.Room)
	}
	return answerPage(c, page)
}

func (s *server) observePage(admin bool, begun time.Time) {
	if s.options.ObservePage != nil {
		s.options.ObservePage(admin, time.Since(begun))
	}
}

// readPageQuery reads what the query says of the page, in the order in which
// refusals are known.
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
	if from == "END" { // what the first clients' API called its natural start
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

// pageToken reads a parameter that is a page token, nil if it is empty.
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
	return int(min(limit, mostLimit)), err
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

// refusePage makes of why there is no page what the reader gets to hear.
func refusePage(err error, reader messages.Reader, room string) error {
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

// answerPage writes a page. Its events are JSON already, and are copied once.
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
