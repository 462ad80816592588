package httpapi

import (
	_ "embed"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/wire"
)

// synapseVersion is the version of Synapse whose API Lethe serves. Admin tools choose
// their requests by it.
const synapseVersion = "1.160.0"

// clientVersions is how that version answers with its default settings when it is asked for
// the versions of the client API. Of that API Lethe serves only what package httpapi
// has routes for.
//
//go:embed versions.json
var clientVersions json.RawMessage

// serverVersion is GET …/v1/server_version. It needs no access token.
func serverVersion(c echo.Context) error {
	return wire.AnswerOK(c, map[string]string{"server_version": synapseVersion}, nil)
}

// versions is GET /_matrix/client/versions. It needs no access token, but refuses a wrong
// one. A locked user and an expired account may ask.
func (s *server) versions(c echo.Context) error {
	r := c.Request()
	_, inQuery := wire.QueryOf(c).Value("access_token")
	if inQuery || len(r.Header.Values("Authorization")) > 0 {
		_, err := s.access.User(r)
		var refused *wire.Error
		if errors.As(err, &refused) && (refused.Code == "M_USER_LOCKED" || refused.Status == http.StatusForbidden) {
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return wire.AnswerOK(c, clientVersions, nil)
}

// loginVersions are the versions in the paths of login.
var loginVersions = []string{"api/v1", "r0", "v3", "unstable"}

// errOnlyHomeserver is what someone reads who signs in while only Lethe answers.
var errOnlyHomeserver = wire.New(http.StatusServiceUnavailable, "M_UNKNOWN",
	"Only the homeserver issues access tokens. While it does not run, sign in with one that you have.")

// refuseLogin is POST /_matrix/client/v3/login. It does not read the request, which has a
// password.
func refuseLogin(echo.Context) error { return errOnlyHomeserver }

// loginFlows is GET /_matrix/client/v3/login. Lethe issues no access tokens, so it offers
// what a homeserver without passwords does, and tools ask for a token.
func loginFlows(c echo.Context) error {
	type flow struct {
		Type string `json:"type"`
	}
	return wire.AnswerOK(c, map[string][]flow{"flows": {{"m.login.application_service"}}}, nil)
}
