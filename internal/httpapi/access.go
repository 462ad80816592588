package httpapi

import (
	"errors"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

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
	// requester returns the user id of a server admin. For anybody else the
	// error is an *apiError, the refusal.
	requester(r *http.Request, accessToken string) (userID string, err error)
}

// byDatabase looks for access tokens in the database.
type byDatabase struct {
	store           *store.Store
	accountValidity bool
}

func (a byDatabase) requester(r *http.Request, accessToken string) (userID string, err error) {
	requester, err := a.store.Requester(r.Context(), accessToken, a.accountValidity)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return "", errUnknownToken
	case err != nil:
		return "", err
	case requester.TokenExpired:
		return "", errExpiredToken
	case requester.Locked:
		return "", errLocked
	case requester.AccountExpired:
		return "", errExpiredAccount
	case requester.Guest:
		return "", errGuest
	case !requester.Admin:
		return "", errNotAdmin
	}
	return requester.UserID, nil
}

// admin lets server admins through to the handler, as the requester.
func (s *server) admin(handler func(c echo.Context, requester string) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		token, err := accessToken(c.Request())
		if err != nil {
			return err
		}
		requester, err := s.accounts.requester(c.Request(), token)
		if err != nil {
			return err
		}
		return handler(c, requester)
	}
}

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
