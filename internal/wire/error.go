package wire

import (
	"fmt"
	"net/http"
)

// An Error is a refusal in Matrix's form.
type Error struct {
	// Status is the HTTP status.
	Status int `json:"-"`

	// Code is Matrix's error code, such as M_FORBIDDEN.
	Code string `json:"errcode"`

	// Text is the explanation. Some admin tools show it, and others match it.
	Text string `json:"error"`

	// SoftLogout tells the owner of a refused access token whether to keep its
	// data. Defaults to nil, which leaves it out.
	SoftLogout *bool `json:"soft_logout,omitempty"`

	// RetryAfter is the time until the caller may ask again, in ms. Defaults to 0,
	// which leaves it out.
	RetryAfter int64 `json:"retry_after_ms,omitempty"`
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Text) }

// New returns a refusal.
func New(status int, code, text string) *Error { return &Error{Status: status, Code: code, Text: text} }

// BadJSON returns the refusal of a body with a value that does not fit.
func BadJSON(text string) *Error { return New(http.StatusBadRequest, "M_BAD_JSON", text) }

// InvalidParam returns the refusal of a query parameter that does not fit.
func InvalidParam(text string) *Error { return New(http.StatusBadRequest, "M_INVALID_PARAM", text) }

// MissingParam returns the refusal of a request that lacks a parameter.
func MissingParam(text string) *Error { return New(http.StatusBadRequest, "M_MISSING_PARAM", text) }

// NotFound returns the refusal of an id that does not exist.
func NotFound(text string) *Error { return New(http.StatusNotFound, "M_NOT_FOUND", text) }

// Forbidden returns the refusal of what the caller may not do.
func Forbidden(text string) *Error { return New(http.StatusForbidden, "M_FORBIDDEN", text) }

// BadRequest returns the refusal of a bad request for which Matrix has no code.
func BadRequest(text string) *Error { return New(http.StatusBadRequest, "M_UNKNOWN", text) }
