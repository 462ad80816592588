package access

import (
	"github.com/labstack/echo/v4"

	"lethe/internal/store/audit"
	"lethe/internal/wire"
)

// Through marks a request with the way by which it came, for the audit, and returns its
// context. A request of the command lethe says so in its User-Agent, and a local one is the
// command's own. All others came by the API.
func Through(c echo.Context, local bool) echo.Context {
	way := audit.API
	if local || c.Request().UserAgent() == wire.CommandAgent {
		way = audit.CLI
	}
	c.SetRequest(c.Request().WithContext(audit.Through(c.Request().Context(), way)))
	return c
}
