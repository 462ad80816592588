package httpapi

import (
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/retention"
)

// retentionConfiguration is GET
// /_matrix/client/unstable/org.matrix.msc1763/retention/configuration: what users
// may expect of the rooms that have no policy, and of those that have one. It is
// for users, not for guests.
func retentionConfiguration(rules retention.Config) echo.HandlerFunc {
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
	return func(c echo.Context) error { return answer(c, http.StatusOK, body) }
}

// anyUser lets every user through who is not a guest, server admin or not.
func (s *server) anyUser(handler echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		token, err := accessToken(c.Request())
		if err != nil {
			return err
		}
		// Whoever is refused for being no admin has passed all other questions.
		if _, err := s.accounts.requester(c.Request(), token); err != nil && !errors.Is(err, errNotAdmin) {
			return err
		}
		return handler(c)
	}
}
