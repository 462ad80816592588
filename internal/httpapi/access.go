package httpapi

import (
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/homeserver"
	"lethe/internal/messages"
	"lethe/internal/store"
)

// The refusals of a caller, in the order in which they are looked for.
var (
	errMixedTokens = missingToken("Mixing Authorization headers and access_token query parameters.")
	errManyTokens  = missingToken("Too many Authorization headers.")
	errBadHeader   = missingToken("Invalid Authorization header.")
	errNoToken     = missingToken("Missing access token")

	errUnknownToken = &apiError{
		Status: http.StatusUnauthorized, Code: "M_UNKNOWN_TOKEN",
		Text: "Invalid access token passed.", SoftLogout: new(false),
	}
	errExpiredToken = &apiError{
		Status: http.StatusUnauthorized, Code: "M_UNKNOWN_TOKEN",
		Text: "Access token has expired", SoftLogout: new(true),
	}
	errLocked = &apiError{
		Status: http.StatusUnauthorized, Code: "M_USER_LOCKED",
		Text: "User account has been locked", SoftLogout: new(true),
	}
	errExpiredAccount = &apiError{
		Status: http.StatusForbidden, Code: "ORG_MATRIX_EXPIRED_ACCOUNT", Text: "User account has expired",
	}
	errGuest = &apiError{
		Status: http.StatusForbidden, Code: "M_GUEST_ACCESS_FORBIDDEN", Text: "Guest access not allowed",
	}
	errNotAdmin = &apiError{Status: http.StatusForbidden, Code: "M_FORBIDDEN", Text: "You are not a server admin"}
)

func missingToken(text string) *apiError {
	return &apiError{Status: http.StatusUnauthorized, Code: "M_MISSING_TOKEN", Text: text}
}

// An authenticator finds out for whom an access token speaks.
type authenticator interface {
	// caller returns for whom the access token speaks, without the token. For one
	// who may not ask for anything the error is an *apiError, the refusal.
	caller(r *http.Request, accessToken string) (messages.Reader, error)
}

// byDatabase looks for access tokens in the database.
type byDatabase struct {
	store           *store.Store
	accountValidity bool
}

func (a byDatabase) caller(r *http.Request, accessToken string) (messages.Reader, error) {
	requester, err := a.store.Requester(r.Context(), accessToken, a.accountValidity)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return messages.Reader{}, errUnknownToken
	case err != nil:
		return messages.Reader{}, err
	case requester.TokenExpired:
		return messages.Reader{}, errExpiredToken
	case requester.Locked:
		return messages.Reader{}, errLocked
	case requester.AccountExpired:
		return messages.Reader{}, errExpiredAccount
	}
	return messages.Reader{
		UserID: requester.UserID, DeviceID: requester.DeviceID, TokenID: requester.TokenID,
		Guest: requester.Guest, Admin: requester.Admin,
	}, nil
}

// admin lets server admins through to the handler, as the requester.
func (s *server) admin(handler func(c echo.Context, requester string) error) echo.HandlerFunc {
	return s.asAdmin(s.identify, func(c echo.Context, reader messages.Reader) error { return handler(c, reader.UserID) })
}

// adminReader is admin for a handler that reads history. It may believe for a moment
// what was true.
func (s *server) adminReader(handler func(c echo.Context, reader messages.Reader) error) echo.HandlerFunc {
	return s.asAdmin(s.remembering(s.identify), handler)
}

func (s *server) asAdmin(identify identifier, handler func(c echo.Context, reader messages.Reader) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		reader, err := s.caller(c.Request(), identify)
		switch {
		case err != nil:
			return err
		case reader.Guest:
			return errGuest
		case !reader.Admin:
			return errNotAdmin
		}
		return handler(c, reader)
	}
}

// remembering returns an identifier that calls the given one at most every other
// second for the same access token. The answers of the homeserver are remembered
// elsewhere.
func (s *server) remembering(identify identifier) identifier {
	if s.options.HomeserverAuth {
		return identify
	}
	return s.recent.before(identify)
}

// userReader lets everybody through who has an account, guests too, to a handler that
// reads history. It may believe for a moment what was true.
func (s *server) userReader(handler func(c echo.Context, reader messages.Reader) error) echo.HandlerFunc {
	return s.asUser(s.remembering, handler)
}

// user is userReader for any other handler, and believes nothing.
func (s *server) user(handler func(c echo.Context, reader messages.Reader) error) echo.HandlerFunc {
	return s.asUser(func(identify identifier) identifier { return identify }, handler)
}

func (s *server) asUser(remembering func(identifier) identifier, handler func(c echo.Context, reader messages.Reader) error) echo.HandlerFunc {
	// Guests' access tokens and those of application services are not in the
	// database, and a client whose token is refused logs out. So the homeserver
	// answers, and it is what counts the wrong ones.
	passes := s.options.Homeserver != nil && !s.options.HomeserverAuth
	identify := s.identify
	if passes {
		identify = s.accounts.caller
	}
	identify = remembering(identify)
	return func(c echo.Context) error {
		reader, err := s.caller(c.Request(), identify)
		if errors.Is(err, errUnknownToken) && passes {
			return echo.ErrNotFound
		}
		if err != nil {
			return err
		}
		return handler(c, reader)
	}
}

// caller finds out who sends the request; identify finds it out from the access token.
func (s *server) caller(r *http.Request, identify identifier) (messages.Reader, error) {
	token, err := accessToken(r)
	if err != nil {
		return messages.Reader{}, err
	}
	reader, err := identify(r, token)
	if err != nil {
		return messages.Reader{}, err
	}
	if r.Header.Get(homeserver.ForHistoryHeader) == "" {
		// Without it the homeserver is not asked for more history: it is what asks.
		reader.AccessToken = token
	}
	return reader, nil
}

// identify finds out for whom the access token that came with the request speaks. It
// does not look at it while too many wrong ones come from the same address.
func (s *server) identify(r *http.Request, token string) (messages.Reader, error) {
	address := clientAddress(r, s.options.TrustedProxies)
	if wait := s.guesses.wait(address, token); wait > 0 {
		return messages.Reader{}, tooManyWrong(wait)
	}
	reader, err := s.accounts.caller(r, token)
	var refused *apiError
	switch {
	case err == nil:
		s.guesses.addGood(token)
	case errors.As(err, &refused) && refused.Code == errUnknownToken.Code && !isSoft(refused):
		s.guesses.addWrong(address, token)
	}
	return reader, err
}

// isSoft reports whether the access token was good once.
func isSoft(refused *apiError) bool { return refused.SoftLogout != nil && *refused.SoftLogout }

// accessToken finds the one access token that came with the request.
func accessToken(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	inQuery, hasQuery := query(r.URL.RawQuery).value("access_token")
	switch {
	case len(headers) == 0 && !hasQuery:
		return "", errNoToken
	case len(headers) == 0:
		return inQuery, nil
	case hasQuery:
		return "", errMixedTokens
	case len(headers) > 1:
		return "", errManyTokens
	}
	token, ok := strings.CutPrefix(headers[0], "Bearer ")
	if !ok || strings.Contains(token, " ") {
		return "", errBadHeader
	}
	return token, nil
}
