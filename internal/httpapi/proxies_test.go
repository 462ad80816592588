package httpapi

import (
	"cmp"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// The backends of the reverse proxies in deploy.
const (
	toLethe   = "lethe"
	toSynapse = "synapse"
	toEither  = "synapse_or_lethe" // Lethe while Synapse is down
)

// A route of a reverse proxy sends requests to a backend.
type proxyRoute struct {
	backend string
	pattern string // as it is in the file
	matches func(method, uri string) bool

	// priority orders routes, the highest first. It is 0 in files that order them.
	priority int
}

// proxyRoutes are the functions that read the routes in a file in deploy, by the file. The
// first route that matches a request counts.
var proxyRoutes = map[string]func(t *testing.T, text string) []proxyRoute{
	"nginx/lethe.conf":  nginxRoutes,
	"caddy/Caddyfile":   caddyRoutes,
	"traefik/lethe.yml": traefikRoutes,
}

// proxyHost is the host that the configurations serve.
const proxyHost = "matrix.example.org"

// readDeployed returns the text of a file in deploy.
func readDeployed(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy", file))
	require.NoError(t, err)
	return string(text)
}

func nginxRoutes(t *testing.T, text string) []proxyRoute {
	t.Helper()
	return mapRoutes(regexp.MustCompile(`(?m)^ *"~(.+)" (\w+);$`).FindAllStringSubmatch(text, -1))
}

func caddyRoutes(t *testing.T, text string) []proxyRoute {
	t.Helper()
	return mapRoutes(regexp.MustCompile("(?m)^\\s*`~(.+)` (\\w+)$").FindAllStringSubmatch(text, -1))
}

// mapRoutes returns the routes of lines with a pattern of method and URI, and a backend.
func mapRoutes(lines [][]string) (routes []proxyRoute) {
	for _, line := range lines {
		pattern := regexp.MustCompile(line[1])
		routes = append(routes, proxyRoute{backend: line[2], pattern: line[1], matches: func(method, uri string) bool {
			return pattern.MatchString(method + " " + uri)
		}})
	}
	return append(routes, proxyRoute{backend: toSynapse, matches: func(string, string) bool { return true }})
}

func traefikRoutes(t *testing.T, text string) (routes []proxyRoute) {
	t.Helper()
	var file struct {
		HTTP struct {
			Routers map[string]struct {
				Rule, Service string
				Priority      int
				Middlewares   []string
			}
			Middlewares map[string]any
			Services    map[string]any
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&file))
	for name, router := range file.HTTP.Routers {
		require.Contains(t, file.HTTP.Services, router.Service, name)
		require.Equal(t, []string{"readable-errors"}, router.Middlewares, name)
		require.Contains(t, file.HTTP.Middlewares, router.Middlewares[0])
		require.Contains(t, router.Rule, "Host(`"+proxyHost+"`) && ", name)
		var methods []string
		for _, found := range regexp.MustCompile("Method\\(`(\\w+)`\\)").FindAllStringSubmatch(router.Rule, -1) {
			methods = append(methods, found[1])
		}
		for _, found := range regexp.MustCompile("PathRegexp\\(`([^`]+)`\\)").FindAllStringSubmatch(router.Rule, -1) {
			pattern := regexp.MustCompile(found[1])
			routes = append(routes, proxyRoute{strings.ReplaceAll(router.Service, "-", "_"), found[1], func(method, uri string) bool {
				path, _, _ := strings.Cut(uri, "?")
				return (methods == nil || slices.Contains(methods, method)) && pattern.MatchString(path)
			}, router.Priority})
		}
	}
	slices.SortFunc(routes, func(a, b proxyRoute) int { return cmp.Compare(b.priority, a.priority) })
	return routes
}

// A routedRequest is a request, and the backend that answers it best.
type routedRequest struct{ method, uri, backend string }

// routedRequests are requests to every route of Lethe's, and to others.
func routedRequests(t *testing.T) (requests []routedRequest) {
	t.Helper()
	add := func(backend, method string, uris ...string) {
		for _, uri := range uris {
			requests = append(requests, routedRequest{method, uri, backend})
		}
	}
	// What a running Synapse must write itself, because it has it in its caches.
	isSynapses := regexp.MustCompile(`^(PUT .*/block|DELETE .*/forward_extremities)$`).MatchString
	// What Lethe knows less of than Synapse.
	isSynapsesWhileItRuns := regexp.MustCompile(`/(versions|login|whoami|server_version|v2/users/\{user_id\}|v3/users)$`).MatchString
	parameter := regexp.MustCompile(`\{\w+\}`)
	for _, route := range allRoutes(t) {
		method, path, _ := strings.Cut(route, " ")
		backend := toLethe
		switch {
		case isSynapses(route):
			backend = toSynapse
		case isSynapsesWhileItRuns(path):
			backend = toEither
		}
		preflight := backend
		if backend == toSynapse {
			preflight = toLethe // it is one with that of GET
		}
		for _, id := range []string{"!room:example.org", "%21room%3Aexample.org", "%24a%2Fb", ""} {
			for _, query := range []string{"", "?", "?access_token=a/b"} {
				uri := parameter.ReplaceAllLiteralString(path, id) + query
				add(backend, method, uri)
				add(preflight, http.MethodOptions, uri)
				if method == http.MethodGet {
					add(backend, http.MethodHead, uri)
				}
			}
		}
	}
	add(toSynapse, "GET",
		"/_synapse/admin/v1/rooms/!room:example.org/state/more",
		"/_synapse/admin/v2/rooms",
		"/_synapse/admin/v2/users?next=/_synapse/admin/v1/rooms",
		"/_synapse/admin/v1/users/@a:example.org/admin",
		"/_matrix/client/v1/rooms/!room:example.org/messages",
		"/_matrix/client/v1/rooms/!room:example.org/hierarchy",
		"/_matrix/client/v3/login/sso/redirect",
		"/_matrix/client/v3/rooms/!room:example.org/event/$event",
		"/_matrix/client/v3/rooms/!room:example.org/send/m.room.message/messages",
		"/_matrix/client/v3/sync?filter=/rooms/x/messages",
		"/_matrix/client/v3/sync?x=/account/whoami",
		"/_matrix/federation/v1/version",
		"/_synapse/client/oidc/callback?code=x",
	)
	add(toSynapse, "POST",
		"/_synapse/admin/v1/purge_media_cache?before_ts=1",
		"/_synapse/admin/v1/rooms/!room:example.org/make_room_admin",
		"/_synapse/admin/v1/rooms/!room:example.org/delete",
		"/_synapse/admin/v1/room/!room:example.org/media/quarantine",
		"/_matrix/client/v3/rooms/!room:example.org/messages",
		"/_matrix/client/v3/logout",
	)
	add(toSynapse, "PUT", "/_synapse/admin/v2/users/@a:example.org", "/_synapse/admin/v1/rooms/!room:example.org")
	add(toSynapse, "DELETE", "/_synapse/admin/v1/event_reports/7", "/_synapse/admin/v1/purge_history_status/x")
	add(toEither, "OPTIONS", "/_matrix/client/v3/sync", "/_synapse/admin/v1/rooms/!room:example.org/make_room_admin")
	return requests
}

// TestProxiesRouteAlike holds the configurations in deploy against the routes.
func TestProxiesRouteAlike(t *testing.T) {
	t.Parallel()
	requests := routedRequests(t)
	for name, routesOf := range proxyRoutes {
		routes := routesOf(t, readDeployed(t, name))
		used := map[string]bool{}
		for _, r := range requests {
			i := slices.IndexFunc(routes, func(route proxyRoute) bool { return route.matches(r.method, r.uri) })
			require.GreaterOrEqual(t, i, 0, "%s: %s %s", name, r.method, r.uri)
			require.Equal(t, r.backend, routes[i].backend, "%s: %s %s", name, r.method, r.uri)
			used[routes[i].backend+routes[i].pattern] = true
		}
		for _, route := range routes {
			require.True(t, used[route.backend+route.pattern], "%s: no request is like %s", name, route.pattern)
		}
	}
}
