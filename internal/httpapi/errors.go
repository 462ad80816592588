package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
)

// An apiError is a refusal in Matrix's form.
type apiError struct {
	Status     int    `json:"-"`
	Code       string `json:"errcode"`
	Text       string `json:"error"`
	SoftLogout *bool  `json:"soft_logout,omitempty"`

	// RetryAfter is when the caller may ask again, in ms; 0 says nothing of it.
	RetryAfter int64 `json:"retry_after_ms,omitempty"`
}

// Error implements error.
func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Text) }

// statusClientGone is what the log shows of a caller that did not wait. Nobody
// gets to see it.
const statusClientGone = 499

var (
	errClientGone = &apiError{Status: statusClientGone, Code: "M_UNKNOWN", Text: "Client closed the connection"}
	errInternal   = &apiError{Status: http.StatusInternalServerError, Code: "M_UNKNOWN", Text: "Internal server error"}
	errTimeout    = &apiError{Status: http.StatusGatewayTimeout, Code: "M_UNKNOWN", Text: "The request took too long"}
)

// badJSON is the refusal of a body that says something unfit.
func badJSON(text string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: "M_BAD_JSON", Text: text}
}

// invalidParam is the refusal of a query parameter that says something unfit.
func invalidParam(text string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: "M_INVALID_PARAM", Text: text}
}

// notFound is the refusal of an id that nothing has.
func notFound(text string) *apiError {
	return &apiError{Status: http.StatusNotFound, Code: "M_NOT_FOUND", Text: text}
}

// badRequest is the refusal that has no code of its own.
func badRequest(text string) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: "M_UNKNOWN", Text: text}
}

// refuse renders an error and returns it if an operator should see it.
func refuse(c echo.Context, err error) error {
	var (
		refused *apiError
		routing *echo.HTTPError
		ctx     = c.Request().Context()
		worth   error
	)
	switch {
	case errors.As(err, &refused):
		if refused.Status >= http.StatusInternalServerError {
			worth = err
		}
	case errors.As(err, &routing):
		refused = &apiError{Status: routing.Code, Code: "M_UNRECOGNIZED", Text: "Unrecognized request"}
	case errors.Is(ctx.Err(), context.Canceled):
		refused = errClientGone
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		refused, worth = errTimeout, err
	default:
		refused, worth = errInternal, err
	}
	if !c.Response().Committed {
		if refused.RetryAfter > 0 {
			c.Response().Header().Set(echo.HeaderRetryAfter, strconv.FormatInt((refused.RetryAfter+999)/1000, 10))
		}
		// An error here is the connection's, and there is nobody left to tell.
		_ = answer(c, refused.Status, refused)
	}
	return worth
}

// answer renders a JSON body.
func answer(c echo.Context, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("render the answer: %w", err)
	}
	return c.JSONBlob(status, text)
}
