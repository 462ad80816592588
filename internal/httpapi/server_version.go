package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// synapseVersion is the Synapse that Lethe answers like. Admin tools decide by
// it what they may ask for.
const synapseVersion = "1.160.0"

// serverVersion is GET …/v1/server_version, for everybody.
func serverVersion(c echo.Context) error {
	return answer(c, http.StatusOK, struct {
		Version string `json:"server_version"`
	}{synapseVersion})
}
