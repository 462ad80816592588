package access

import (
	"net/http"
	"time"

	"lethe/internal/wire"
)

// The refusals of a caller, in the order in which they are checked.
var (
	errMixedTokens = missingToken("Mixing Authorization headers and access_token query parameters.")
	errManyTokens  = missingToken("Too many Authorization headers.")
	errBadHeader   = missingToken("Invalid Authorization header.")
	errNoToken     = missingToken("Missing access token")

	// ErrUnknownToken is returned when the access token is unknown.
	ErrUnknownToken = &wire.Error{
		Status: http.StatusUnauthorized, Code: "M_UNKNOWN_TOKEN",
		Text: "Invalid access token passed.", SoftLogout: new(false),
	}
	errExpiredToken = &wire.Error{
		Status: http.StatusUnauthorized, Code: "M_UNKNOWN_TOKEN",
		Text: "Access token has expired", SoftLogout: new(true),
	}
	errLocked = &wire.Error{
		Status: http.StatusUnauthorized, Code: "M_USER_LOCKED",
		Text: "User account has been locked", SoftLogout: new(true),
	}
	errExpiredAccount = &wire.Error{
		Status: http.StatusForbidden, Code: "ORG_MATRIX_EXPIRED_ACCOUNT", Text: "User account has expired",
	}

	// ErrGuest is returned when a guest asks for what guests may not have.
	ErrGuest = &wire.Error{
		Status: http.StatusForbidden, Code: "M_GUEST_ACCESS_FORBIDDEN", Text: "Guest access not allowed",
	}
	errNotAdmin = &wire.Error{Status: http.StatusForbidden, Code: "M_FORBIDDEN", Text: "You are not a server admin"}

	errCannotAsk = &wire.Error{
		Status: http.StatusBadGateway, Code: "M_UNKNOWN", Text: "The homeserver cannot be asked about the access token",
	}
)

func missingToken(text string) *wire.Error {
	return &wire.Error{Status: http.StatusUnauthorized, Code: "M_MISSING_TOKEN", Text: text}
}

// tooManyWrong is the refusal of a caller that sent too many wrong access tokens.
func tooManyWrong(wait time.Duration) *wire.Error {
	ms := int64((wait + time.Millisecond - 1) / time.Millisecond)
	return &wire.Error{
		Status: http.StatusTooManyRequests, Code: "M_LIMIT_EXCEEDED", Text: "Too many wrong access tokens", RetryAfter: ms,
	}
}
