package routing

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// A Backend is a server behind a proxy.
type Backend string

const (
	// Lethe answers the request.
	Lethe Backend = "lethe"

	// Synapse answers the request.
	Synapse Backend = "synapse"

	// Either is Synapse, and Lethe while Synapse is down.
	Either Backend = "synapse_or_lethe"

	// Outside is for requests that do not belong to Matrix. The proxy answers them or sends
	// them to another server.
	Outside Backend = ""
)

// A Route is a request that docs/api.md describes, with the parameters of its path in
// braces, and the backend that docs/routes.md gives it.
type Route struct {
	Method, Path string
	Backend      Backend

	pattern *regexp.Regexp // of the path as the client sent it
}

// A Table is what the documents say. The zero Table sends nothing to Lethe.
type Table struct {
	// Routes are the requests that Lethe knows.
	Routes []Route

	prefixes []prefix
}

// A prefix of paths goes to Lethe with some methods, whether Lethe knows the path or not.
type prefix struct {
	path    string
	methods []string
}

// matrix matches the paths that are Matrix's or Lethe's.
var matrix = regexp.MustCompile(`^/(_lethe|_matrix|_synapse/(admin|client))/`)

// Documented returns what the texts of docs/api.md and docs/routes.md say. It is an error if
// docs/routes.md does not say of each route in docs/api.md which backend it has, says it
// twice, or sends a request to Lethe that docs/api.md does not describe.
func Documented(api, routes string) (*Table, error) {
	table := &Table{}
	line := regexp.MustCompile("(?ms)^### [^\n]*|^Also .*?\\.$")
	route := regexp.MustCompile("`([A-Z]+) (/[^`]*)`")
	for _, text := range line.FindAllString(api, -1) {
		for _, found := range route.FindAllStringSubmatch(text, -1) {
			table.Routes = append(table.Routes, Route{Method: found[1], Path: found[2], pattern: patternOf(found[2])})
		}
	}
	if len(table.Routes) == 0 {
		return nil, fmt.Errorf("docs/api.md describes no request")
	}
	for _, section := range []struct {
		heading string
		backend Backend
	}{{"What Lethe answers", Lethe}, {"What stays with Synapse", Synapse}, {"While Synapse is down", Either}} {
		requests, err := firstColumn(routes, section.heading)
		if err != nil {
			return nil, err
		}
		for _, request := range requests {
			if err := table.add(request, section.backend); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range table.Routes {
		if r.Backend == Outside {
			return nil, fmt.Errorf("docs/routes.md does not say where %s %s goes", r.Method, r.Path)
		}
	}
	return table, nil
}

// firstColumn returns the requests in the first column of the first table of a section.
func firstColumn(text, heading string) (requests []string, err error) {
	_, section, found := strings.Cut(text, "\n## "+heading+"\n")
	if !found {
		return nil, fmt.Errorf("docs/routes.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile(`(?m)(^\|.*\n)+`).FindString(section)
	request := regexp.MustCompile("`((?:[A-Z]+ )?[/…][^`]*)`")
	for row := range strings.Lines(rows) {
		cell := strings.Split(row, "|")[1]
		for _, found := range request.FindAllStringSubmatch(cell, -1) {
			requests = append(requests, found[1])
		}
	}
	if len(requests) == 0 {
		return nil, fmt.Errorf("the section %q of docs/routes.md names no request", heading)
	}
	return requests, nil
}

// add gives the backend to the routes that a request of docs/routes.md stands for. … is any
// part of a path there. A request without a method is a path with all of its methods.
func (t *Table) add(request string, backend Backend) error {
	method, path, found := strings.Cut(request, " ")
	if !found {
		method, path = "", request
	}
	parts := strings.Split(path, "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	pattern := regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
	var methods []string
	for i, r := range t.Routes {
		if method != "" && method != r.Method || !pattern.MatchString(r.Path) {
			continue
		}
		if r.Backend != Outside && r.Backend != backend {
			return fmt.Errorf("docs/routes.md says twice where %s %s goes", r.Method, r.Path)
		}
		t.Routes[i].Backend = backend
		methods = append(methods, r.Method)
	}
	switch {
	case len(methods) == 0 && backend != Synapse: // which knows more requests than Lethe
		return fmt.Errorf("docs/api.md does not describe %q of docs/routes.md", request)
	case backend == Lethe && method == "" && strings.HasSuffix(path, "/…"):
		t.prefixes = append(t.prefixes, prefix{strings.TrimSuffix(path, "…"), methods})
	}
	return nil
}

// patternOf returns the pattern of a path with parameters in braces. A parameter is
// anything but a slash, and may be empty.
func patternOf(path string) *regexp.Regexp {
	parts := regexp.MustCompile(`\{\w+\}`).Split(path, -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, "[^/]*") + "$")
}

// Backend returns the backend of a request. uri is what the client sent: the path with its
// escapes, and perhaps a query. HEAD goes with GET, and OPTIONS with any method that goes to
// Lethe.
func (t *Table) Backend(method, uri string) Backend {
	path, _, _ := strings.Cut(uri, "?")
	if !matrix.MatchString(path) {
		return Outside
	}
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, p := range t.prefixes {
		if strings.HasPrefix(path, p.path) && (method == http.MethodOptions || slices.Contains(p.methods, method)) {
			return Lethe
		}
	}
	for _, r := range t.Routes {
		if (r.Method == method || method == http.MethodOptions && r.Backend == Lethe) && r.pattern.MatchString(path) {
			return r.Backend
		}
	}
	if method == http.MethodOptions {
		return Either
	}
	return Synapse
}
