package httpapi

import (
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/wire"
)

// queryOf returns the query string of the request.
func queryOf(c echo.Context) wire.Query { return wire.Query(c.Request().URL.RawQuery) }

// segment returns a segment of the path, decoded once. Bytes that are not UTF-8 become
// U+FFFD, which is in no id.
func segment(c echo.Context, name string) string {
	sent := c.Param(name)
	decoded, err := url.PathUnescape(sent)
	if err != nil { // net/http refuses such requests
		decoded = sent
	}
	return strings.ToValidUTF8(decoded, "\uFFFD")
}
