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

	"lethe/internal/retention"
)

// allRoutes returns every route that is served with some settings, as METHOD
// /path/{parameter}.
func allRoutes(t *testing.T) []string {
	t.Helper()
	handler := New(nil, nil, nil, Options{Retention: &retention.Config{Enabled: true}})
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

// TestNginxRoutesAreOurs holds deploy/nginx/lethe.conf against the routes.
func TestNginxRoutesAreOurs(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../deploy/nginx/lethe.conf")
	require.NoError(t, err)
	var patterns []*regexp.Regexp
	for _, found := range regexp.MustCompile(`"~(\S+)" lethe;`).FindAllStringSubmatch(string(data), -1) {
		patterns = append(patterns, regexp.MustCompile(found[1]))
	}
	used := map[*regexp.Regexp]bool{}
	ours := func(uri string) bool {
		is := false
		for _, pattern := range patterns {
			if pattern.MatchString(uri) {
				is, used[pattern] = true, true
			}
		}
		return is
	}

	// Other reads are for tools that have only the api's address. Synapse answers them
	// alike, and has other methods on the same paths.
	isOtherRead := regexp.MustCompile(
		`^/_synapse/admin/(v1/(fetch_event/|event_reports|rooms/[^/]*/hierarchy$|room/|statistics/)|v2/users/|v3/users$)|/versions$|/login$`).MatchString
	parameter := regexp.MustCompile(`\{\w+\}`)
	for _, route := range allRoutes(t) {
		_, path, _ := strings.Cut(route, " ")
		if strings.HasSuffix(path, "/account/whoami") {
			continue // all clients ask it, and of some the homeserver alone knows
		}
		if isOtherRead(path) {
			continue
		}
		for _, id := range []string{"!room:example.org", "%21room%3Aexample.org", "%24a%2Fb", ""} {
			uri := parameter.ReplaceAllLiteralString(path, id)
			for _, query := range []string{"", "?", "?access_token=a/b"} {
				require.True(t, ours(uri+query), "%s is for Synapse", uri+query)
			}
		}
	}
	for _, pattern := range patterns {
		require.True(t, used[pattern], "no route is like %s", pattern)
	}

	for _, uri := range []string{
		"/_synapse/admin/v1/purge_media_cache?before_ts=1",
		"/_synapse/admin/v1/rooms/!room:example.org/hierarchy",
		"/_synapse/admin/v1/rooms/!room:example.org/make_room_admin",
		"/_synapse/admin/v1/rooms/!room:example.org/state/more",
		"/_synapse/admin/v1/room/!room:example.org/media",
		"/_synapse/admin/v2/rooms",
		"/_synapse/admin/v2/users?next=/_synapse/admin/v1/rooms",
		"/_matrix/client/v1/rooms/!room:example.org/messages",
		"/_matrix/client/v3/account/whoami",
		"/_matrix/client/v3/rooms/!room:example.org/event/$event",
		"/_matrix/client/v3/rooms/!room:example.org/send/m.room.message/messages",
		"/_matrix/client/v3/sync?filter=/rooms/x/messages",
		"/x/_matrix/client/v3/rooms/!room:example.org/messages",
	} {
		require.False(t, ours(uri), "%s is for Lethe", uri)
	}
}
