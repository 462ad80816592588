package console

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

var (
	errNoRedis    = wire.New(http.StatusServiceUnavailable, "M_UNKNOWN", "Redis, which has the sessions, cannot be reached")
	errNoDatabase = &wire.Error{
		Status: http.StatusServiceUnavailable, Code: "M_UNKNOWN", Text: "PostgreSQL cannot be reached", RetryAfter: 5000,
	}
	errNoPage = wire.NotFound("There is no such page")
	errLong   = wire.New(http.StatusRequestURITooLong, "M_UNKNOWN", "The address is too long")
	errMethod = wire.New(http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "The page cannot be asked in this way")
	errSlow   = wire.New(http.StatusGatewayTimeout, "M_UNKNOWN", "The database has not answered in time")
	errBroken = wire.New(http.StatusInternalServerError, "M_UNKNOWN", "Something in Lethe has failed")
)

// elsewhere refuses a path without a page, and a method that a page does not have.
func (c *Console) elsewhere(v *visit) error {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		asked := v.r.Clone(v.r.Context())
		asked.Method = method
		if _, pattern := c.mux.Handler(asked); pattern != "/" && pattern != "" {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		return errNoPage
	}
	v.w.Header().Set("Allow", strings.Join(allowed, ", "))
	return errMethod
}

// A refusal is the page of an error.
type refusal struct {
	frame
	Status     int
	Text, Next string
}

// refuse answers with the page of an error. It returns the error if an operator should see
// it.
func (c *Console) refuse(v *visit, err error) error {
	var refused *wire.Error
	var toLog error
	ctx := v.r.Context()
	switch {
	case v.sent.Err() != nil && time.Now().Before(v.w.readBy): // the browser has gone
		if v.w.status == 0 {
			v.w.Header().Set("Connection", "close")
			v.w.WriteHeader(http.StatusServiceUnavailable)
		}
		return nil
	case errors.As(err, &refused):
		if refused.Status >= http.StatusInternalServerError {
			toLog = err
		}
	case postgres.Unreachable(err):
		refused, toLog = errNoDatabase, err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		refused, toLog = errSlow, err
	default:
		refused, toLog = errBroken, err
	}
	if v.w.status != 0 {
		return toLog // the answer has begun
	}
	retryAfter(v.w.Header(), refused)
	page := refusal{frame: v.frame(titleOf(refused.Status)), Status: refused.Status, Text: sentence(refused.Text), Next: nextStep(refused)}
	if refused.Status == http.StatusInternalServerError {
		page.Next += " " + v.id + "."
	}
	return errors.Join(toLog, v.render(refused.Status, "refusal", page))
}

func retryAfter(h http.Header, refused *wire.Error) {
	if refused.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt((refused.RetryAfter+999)/1000, 10))
	}
}

func titleOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "Not signed in"
	case http.StatusForbidden:
		return "Not allowed"
	case http.StatusNotFound:
		return "Not found"
	case http.StatusConflict:
		return "Not possible now"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusBadGateway:
		return "Not now"
	case http.StatusInternalServerError:
		return "Failed"
	}
	return "Not understood"
}

// nextStep says what to do about a refusal.
func nextStep(refused *wire.Error) string {
	switch {
	case refused == errNoRedis:
		return "Jobs in PostgreSQL are safe. Start Redis and reload this page; meanwhile lethe job list shows the jobs."
	case refused == errNoDatabase:
		return "Jobs wait meanwhile, and go on where they stopped. Try again in 5 s. If it stays like this, lethe doctor says what is wrong."
	case refused == errProof || refused == errOtherSite:
		return "Go back to the page, reload it, and try again."
	case refused == errReads:
		return "Ask a server admin to do it."
	case refused.RetryAfter > 0:
		return "Try again in " + spell(time.Duration(refused.RetryAfter)*time.Millisecond+time.Second-1) + "."
	}
	switch refused.Status {
	case http.StatusUnauthorized:
		return "Sign in with a valid access token of a server admin."
	case http.StatusForbidden:
		return "Use the access token of a server admin."
	case http.StatusNotFound:
		return "Check the address and the ids in it. Rows of old jobs are deleted after journal.keep."
	case http.StatusConflict:
		return "Go back and reload the page: its state may have changed since."
	case http.StatusInternalServerError:
		return "Nothing that is not shown was changed. The log of the api has the reason, at request_id"
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return "Try again in a moment. If it stays like this, lethe doctor says what is wrong."
	}
	return "Go back and correct what was entered."
}

// sentence returns a text of the API with one full stop at its end.
func sentence(text string) string { return strings.TrimRight(text, ".") + "." }
