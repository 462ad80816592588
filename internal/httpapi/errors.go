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

// statusClientGone is what the log shows of a caller that did not wait. Nobody
// gets to see it.
const statusClientGone = 499

var (
	errClientGone = &wire.Error{Status: statusClientGone, Code: "M_UNKNOWN", Text: "Client closed the connection"}
	errInternal   = &wire.Error{Status: http.StatusInternalServerError, Code: "M_UNKNOWN", Text: "Internal server error"}
	errTimeout    = &wire.Error{Status: http.StatusGatewayTimeout, Code: "M_UNKNOWN", Text: "The request took too long"}
)

// refuse renders an error and returns it if an operator should see it.
func refuse(c echo.Context, err error) error {
	var (
		refused *wire.Error
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
		refused = &wire.Error{Status: routing.Code, Code: "M_UNRECOGNIZED", Text: "Unrecognized request"}
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
