package httpapi

import (
	"github.com/labstack/echo/v4"

	"lethe/internal/access"
	"lethe/internal/messages"
	"lethe/internal/retention"
	"lethe/internal/wire"
)

// retentionConfiguration is GET
// /_matrix/client/unstable/org.matrix.msc1763/retention/configuration. It tells users,
// but not guests, the policy of rooms without one of their own, and the bounds of other
// policies.
func retentionConfiguration(rules retention.Config) func(echo.Context, messages.Reader) error {
	type lifetimes struct {
		MinLifetime *int64 `json:"min_lifetime,omitempty"`
		MaxLifetime *int64 `json:"max_lifetime,omitempty"`
	}
	type bounds struct {
		Min *int64 `json:"min,omitempty"`
		Max *int64 `json:"max,omitempty"`
	}
	var body struct {
		Policies struct {
			All *lifetimes `json:"*,omitempty"`
		} `json:"policies"`
		Limits struct {
			MaxLifetime *bounds `json:"max_lifetime,omitempty"`
		} `json:"limits"`
	}
	if p := lifetimes(rules.DefaultPolicy); p != (lifetimes{}) {
		body.Policies.All = &p
	}
	if b := (bounds{rules.AllowedLifetimeMin, rules.AllowedLifetimeMax}); b != (bounds{}) {
		body.Limits.MaxLifetime = &b
	}
	return func(c echo.Context, reader messages.Reader) error {
		if reader.Guest {
			return access.ErrGuest
		}
		return wire.AnswerOK(c, body, nil)
	}
}
