package routing

import (
	"net/http"
	"regexp"
	"strings"
)

// A Request is a request as a client sends it, and its backend.
type Request struct {
	Method, URI string
	Backend     Backend

	// Merged is the backend behind a proxy that makes two slashes of a path one, as Traefik
	// does.
	Merged Backend
}

// methods are those that clients send.
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch,
}

// Requests returns requests to every route, with every method, many ids and queries, and
// requests that are nearly those.
func (t *Table) Requests() (requests []Request) {
	parameter := regexp.MustCompile(`\{\w+\}`)
	seen := map[[2]string]bool{}
	add := func(method, uri string) {
		if key := [2]string{method, uri}; !seen[key] {
			seen[key] = true
			requests = append(requests, Request{method, uri, t.Backend(method, uri), t.Backend(method, merged(uri))})
		}
	}
	ids := []string{
		"%21room%3Aexample.org", "%24a%2Fb%2F..%2Fc", "%23alias%3aexample.org", "$x_y-z~", "%25", "%3F", "%E2%98%83", "a+b", "!..:%2e%2e", "",
	}
	queries := []string{"?", "?access_token=a/b", "?a=%2F&b=/_synapse/admin/v1/rooms?c", "?filter=" + strings.Repeat("%7B%22a%22%3A1%7D", 400)}
	for _, route := range t.Routes {
		path := parameter.ReplaceAllLiteralString(route.Path, "!room:example.org")
		for _, method := range methods {
			add(method, path)
		}
		for _, id := range ids {
			add(route.Method, parameter.ReplaceAllLiteralString(route.Path, id))
		}
		for _, query := range queries {
			add(route.Method, path+query)
		}
		for _, near := range nearly(path) {
			add(route.Method, near)
		}
	}
	return requests
}

// merged returns the URI with each row of slashes in its path as one.
func merged(uri string) string {
	path, query, found := strings.Cut(uri, "?")
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	if found {
		path += "?"
	}
	return path + query
}

// nearly returns paths that are nearly a path.
func nearly(path string) []string {
	last := strings.LastIndexByte(path, '/')
	return []string{
		path + "/", path + "x", path + "/more", path + "%2F", path + ";a=b", path + "&a=b",
		path[:last] + "/" + path[last:],                                 // two slashes
		path[:last+1] + strings.ToUpper(path[last+1:]),                  // another case
		strings.ToUpper(path), strings.Replace(path, "_", "_other-", 1), // another prefix
		"/x" + path, "/" + path, strings.Replace(path, "/v", "/v0", 1), path[:1] + path[2:],
	}
}
