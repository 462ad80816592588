package access

import (
	"net/http"
	"strings"
	"time"

	"lethe/internal/wire"
)

// tokenOf returns the access token of a request, from its only Authorization header
// or from its query.
func tokenOf(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	inQuery, hasQuery := wire.NewQuery(r.URL.RawQuery).Value("access_token")
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

// browserTokenOf returns the access token of a request of a browser, which may send
// it as the password of basic authentication. It does not read the query: browsers
// keep that in their history, and proxies log it.
func browserTokenOf(r *http.Request) (string, error) {
	headers := r.Header.Values("Authorization")
	switch len(headers) {
	case 0:
		return "", errNoToken
	case 1:
	default:
		return "", errManyTokens
	}
	token, ok := strings.CutPrefix(headers[0], "Bearer ")
	if !ok {
		// A user id has a colon, at which BasicAuth ends the user.
		var user, password string
		user, password, ok = r.BasicAuth()
		both := user + ":" + password
		token = both[strings.LastIndexByte(both, ':')+1:]
	}
	switch {
	case !ok:
		return "", errBadHeader
	case token == "":
		return "", errNoToken
	}
	return token, nil
}

// The refusals of a caller, in the order in which they are checked.
var (
	errMixedTokens = missingToken("Mixing Authorization headers and access_token query parameters.")
	errManyTokens  = missingToken("Too many Authorization headers.")
	errBadHeader   = missingToken("Invalid Authorization header.")
	errNoToken     = missingToken("Missing access token")

	// ErrUnknownToken is returned when the access token is unknown.
	ErrUnknownToken   = unauthorized("M_UNKNOWN_TOKEN", "Invalid access token passed.", false)
	errExpiredToken   = unauthorized("M_UNKNOWN_TOKEN", "Access token has expired", true)
	errLocked         = unauthorized("M_USER_LOCKED", "User account has been locked", true)
	errExpiredAccount = wire.New(http.StatusForbidden, "ORG_MATRIX_EXPIRED_ACCOUNT", "User account has expired")

	// ErrGuest is returned when a guest asks for what guests may not have.
	ErrGuest    = wire.New(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "Guest access not allowed")
	errNotAdmin = wire.Forbidden("You are not a server admin")

	// These are refusals of a token that Matrix Authentication Service knows.
	errScope  = unauthorized("M_UNKNOWN_TOKEN", "The access token does not grant access to the client API", false)
	errNoUser = unauthorized("M_UNKNOWN_TOKEN", "The access token has no user", false)

	errCannotIntrospect = wire.New(http.StatusServiceUnavailable, "M_UNKNOWN", "Matrix Authentication Service cannot be asked about the access token")
	errCannotAsk        = wire.New(http.StatusBadGateway, "M_UNKNOWN", "The homeserver cannot be asked about the access token")
)

func missingToken(text string) *wire.Error {
	return wire.New(http.StatusUnauthorized, "M_MISSING_TOKEN", text)
}

// unauthorized returns the refusal of an access token. SoftLogout says that the token
// was good once.
func unauthorized(code, text string, softLogout bool) *wire.Error {
	return &wire.Error{Status: http.StatusUnauthorized, Code: code, Text: text, SoftLogout: &softLogout}
}

// tooManyWrong is the refusal of a caller that sent too many wrong access tokens.
func tooManyWrong(wait time.Duration) *wire.Error {
	ms := int64((wait + time.Millisecond - 1) / time.Millisecond)
	return &wire.Error{
		Status: http.StatusTooManyRequests, Code: "M_LIMIT_EXCEEDED", Text: "Too many wrong access tokens", RetryAfter: ms,
	}
}
