package operator

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/docs"
)

// description is GET /_lethe/v1/openapi.json.
func (o *Operator) description(c echo.Context, _ string) error {
	return c.JSONBlob(http.StatusOK, docs.OpenAPI)
}
