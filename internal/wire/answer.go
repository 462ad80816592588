package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
)

// statusClientGone is the status in the log for a caller that disconnected. It is never
// sent.
const statusClientGone = 499

var (
	errClientGone = New(statusClientGone, "M_UNKNOWN", "Client closed the connection")
	errInternal   = New(http.StatusInternalServerError, "M_UNKNOWN", "Internal server error")
	errTimeout    = New(http.StatusGatewayTimeout, "M_UNKNOWN", "The request took too long")
)

// WriteError answers with an error. It returns the error if an operator should see it.
func WriteError(c echo.Context, err error) error {
	var (
		refused *Error
		routing *echo.HTTPError
		ctx     = c.Request().Context()
		toLog   error
	)
	switch {
	case errors.As(err, &refused):
		if refused.Status >= http.StatusInternalServerError {
			toLog = err
		}
	case errors.As(err, &routing):
		refused = New(routing.Code, "M_UNRECOGNIZED", "Unrecognized request")
	case errors.Is(ctx.Err(), context.Canceled):
		refused = errClientGone
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		refused, toLog = errTimeout, err
	default:
		refused, toLog = errInternal, err
	}
	if !c.Response().Committed {
		if refused.RetryAfter > 0 {
			c.Response().Header().Set(echo.HeaderRetryAfter, strconv.FormatInt((refused.RetryAfter+999)/1000, 10))
		}
		// It fails only if the connection is broken.
		_ = Answer(c, refused.Status, refused)
	}
	return toLog
}

// Instead returns the refusal for an error that is the reason for it, and any other
// error, or nil, as it is.
func Instead(err, reason error, refusal *Error) error {
	if errors.Is(err, reason) {
		return refusal
	}
	return err
}

// AnswerOK answers with a JSON body, unless there is an error, which it returns.
func AnswerOK(c echo.Context, body any, err error) error {
	if err != nil {
		return err
	}
	return Answer(c, http.StatusOK, body)
}

// Answer answers with the status and a JSON body.
func Answer(c echo.Context, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("render the answer: %w", err)
	}
	return c.JSONBlob(status, text)
}
