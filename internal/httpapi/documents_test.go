package httpapi

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"lethe/internal/console"
	"lethe/internal/operator"
	"lethe/internal/retention"
)

// allRoutes returns every route that is served with some settings, as METHOD
// /path/{parameter}.
func allRoutes(t *testing.T) []string {
	t.Helper()
	handler := New(nil, nil, nil, Options{
		Operator: operator.New(nil, nil, nil, nil, operator.Options{}), Retention: &retention.Config{Enabled: true},
	})
	parameter := regexp.MustCompile(`:(\w+)`)
	var routes []string
	for _, route := range handler.(*server).echo.Routes() {
		// HEAD comes with GET, and what ends in a slash with what has a last
		// parameter: see handle.
		if route.Method == http.MethodHead || route.Method == echo.RouteNotFound || strings.HasSuffix(route.Path, "/") {
			continue
		}
		routes = append(routes, route.Method+" "+parameter.ReplaceAllString(route.Path, "{$1}"))
	}
	// The console routes its pages itself.
	routes = append(routes, "GET "+console.Root+"/{page}", "POST "+console.Root+"/{page}")
	slices.Sort(routes)
	require.NotEmpty(t, routes)
	return slices.Compact(routes)
}

// TestAPIDocumentNamesEveryRoute looks in docs/api.md for headings that are a method
// and a path, and sentences below them that begin with Also.
func TestAPIDocumentNamesEveryRoute(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../docs/api.md")
	require.NoError(t, err)
	line := regexp.MustCompile("(?ms)^### [^\n]*|^Also .*?\\.$")
	route := regexp.MustCompile("`([A-Z]+ /[^`]*)`")
	var named []string
	for _, text := range line.FindAllString(string(data), -1) {
		for _, found := range route.FindAllStringSubmatch(text, -1) {
			named = append(named, found[1])
		}
	}
	slices.Sort(named)
	require.Empty(t, cmp.Diff(allRoutes(t), named), "- is served, + is in docs/api.md")
}
