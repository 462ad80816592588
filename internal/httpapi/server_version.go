package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// synapseVersion is the version of Synapse whose API Lethe serves. Admin tools choose
// their requests by it.
const synapseVersion = "1.160.0"

// serverVersion is GET …/v1/server_version. It needs no access token.
func serverVersion(c echo.Context) error {
	return answer(c, http.StatusOK, struct {
		Version string `json:"server_version"`
	}{synapseVersion})
}
