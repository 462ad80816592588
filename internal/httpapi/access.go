package httpapi

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/access"
	"lethe/internal/messages"
	"lethe/internal/wire"
)

// A readerHandler handles a request whose sender is known.
type readerHandler func(c echo.Context, reader messages.Reader) error

// admin lets server admins through to the handler. Each request is checked.
func (s *server) admin(handler func(c echo.Context, requester string) error) echo.HandlerFunc {
	if local := s.options.Local; local != "" {
		return func(c echo.Context) error { return handler(access.Through(c, true), local) }
	}
	return as(s.access.Admin, func(c echo.Context, reader messages.Reader) error {
		return handler(access.Through(c, false), reader.UserID)
	})
}

// adminReader is admin for a handler that only reads history. See
// [access.Control.RecentAdmin].
func (s *server) adminReader(handler readerHandler) echo.HandlerFunc {
	return as(s.access.RecentAdmin, handler)
}

// user lets users and guests through to the handler. Each request is checked.
func (s *server) user(handler readerHandler) echo.HandlerFunc {
	return as(s.orPassOn(s.access.User), handler)
}

// userReader is user for a handler that only reads history. See
// [access.Control.RecentUser].
func (s *server) userReader(handler readerHandler) echo.HandlerFunc {
	return as(s.orPassOn(s.access.RecentUser), handler)
}

func as(callerOf func(*http.Request) (messages.Reader, error), handler readerHandler) echo.HandlerFunc {
	return func(c echo.Context) error {
		reader, err := callerOf(c.Request())
		if err != nil {
			return err
		}
		return handler(c, reader)
	}
}

// orPassOn lets the homeserver answer requests with an unknown access token, if
// [Options.passesUsersOn] says so.
func (s *server) orPassOn(callerOf func(*http.Request) (messages.Reader, error)) func(*http.Request) (messages.Reader, error) {
	if !s.options.passesUsersOn() {
		return callerOf
	}
	return func(r *http.Request) (messages.Reader, error) {
		reader, err := callerOf(r)
		if errors.Is(err, access.ErrUnknownToken) {
			err = echo.ErrNotFound
		}
		return reader, err
	}
}

// passesUsersOn reports whether the homeserver answers users whose access token is
// neither in the database nor known to MAS. Tokens of guests and of application services
// are not, and a client whose token is refused logs out.
func (o *Options) passesUsersOn() bool { return o.Homeserver != nil && !o.HomeserverAuth }

// whoami is GET /_matrix/client/v3/account/whoami. Admin tools ask it for whom an access
// token speaks, also while the homeserver is down.
func whoami(c echo.Context, reader messages.Reader) error {
	return wire.AnswerOK(c, struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id,omitempty"`
		IsGuest  bool   `json:"is_guest"`
	}{reader.UserID, reader.DeviceID, reader.Guest}, nil)
}
