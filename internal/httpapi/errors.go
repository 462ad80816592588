package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"lethe/internal/wire"
)

// statusClientGone is the status in the log for a caller that disconnected. It is never
// sent.
const statusClientGone = 499

var (
	errClientGone = &wire.Error{Status: statusClientGone, Code: "M_UNKNOWN", Text: "Client closed the connection"}
	errInternal   = &wire.Error{Status: http.StatusInternalServerError, Code: "M_UNKNOWN", Text: "Internal server error"}
	errTimeout    = &wire.Error{Status: http.StatusGatewayTimeout, Code: "M_UNKNOWN", Text: "The request took too long"}
)

// writeError answers with an error. It returns the error if an operator should see it.
func writeError(c echo.Context, err error) error {
	var (
		refused *wire.Error
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
		refused = &wire.Error{Status: routing.Code, Code: "M_UNRECOGNIZED", Text: "Unrecognized request"}
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
		_ = answer(c, refused.Status, refused)
	}
	return toLog
}

// answer answers with a JSON body.
func answer(c echo.Context, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("render the answer: %w", err)
	}
	return c.JSONBlob(status, text)
}
