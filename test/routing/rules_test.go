package routing

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// A rule of a proxy sends requests to a backend.
type rule struct {
	text    string // as it is in the file
	backend Backend
	matches func(method, uri string) bool
}

// rulesOf are the functions that read the rules of a file in deploy, by the file. The first
// rule that matches a request counts.
var rulesOf = map[string]func(t *testing.T, text string) []rule{
	"deploy/nginx/lethe.conf": func(t *testing.T, text string) []rule {
		return mapped(t, regexp.MustCompile(`(?m)^ *"~(.+)" (\w+);$`).FindAllStringSubmatch(text, -1))
	},
	"deploy/caddy/Caddyfile": func(t *testing.T, text string) []rule {
		return mapped(t, regexp.MustCompile("(?m)^\\s*`~(.+)` (\\w+)$").FindAllStringSubmatch(text, -1))
	},
	"deploy/traefik/lethe.yml": routers,
}

// mapped returns the rules of lines with a pattern of method and URI, and a backend. They
// are about paths of Matrix only, the default is Synapse.
func mapped(t *testing.T, lines [][]string) (rules []rule) {
	t.Helper()
	require.NotEmpty(t, lines)
	for _, line := range lines {
		pattern := regexp.MustCompile(line[1])
		rules = append(rules, rule{line[1], Backend(line[2]), func(method, uri string) bool {
			return matrix.MatchString(uri) && pattern.MatchString(method+" "+uri)
		}})
	}
	return append(rules, rule{"default", Synapse, func(_, uri string) bool { return matrix.MatchString(uri) }})
}

// routers returns the rules of a file of Traefik's dynamic configuration.
func routers(t *testing.T, text string) (rules []rule) {
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
	priorities := map[string]int{}
	for name, router := range file.HTTP.Routers {
		require.Contains(t, file.HTTP.Services, router.Service, name)
		require.Positive(t, router.Priority, name)
		for _, middleware := range router.Middlewares {
			require.Contains(t, file.HTTP.Middlewares, middleware, name)
		}
		parsed, err := parser.ParseExpr(router.Rule) // Traefik's rules are expressions of Go
		require.NoError(t, err, name)
		priorities[router.Rule] = router.Priority
		rules = append(rules, rule{router.Rule, Backend(strings.ReplaceAll(router.Service, "-", "_")), matcher(t, parsed)})
	}
	slices.SortFunc(rules, func(a, b rule) int { return priorities[b.text] - priorities[a.text] })
	return rules
}

// matcher returns what an expression of a router's rule matches.
func matcher(t *testing.T, expression ast.Expr) func(method, uri string) bool {
	t.Helper()
	switch e := expression.(type) {
	case *ast.ParenExpr:
		return matcher(t, e.X)
	case *ast.BinaryExpr:
		x, y := matcher(t, e.X), matcher(t, e.Y)
		if e.Op == token.LAND {
			return func(method, uri string) bool { return x(method, uri) && y(method, uri) }
		}
		require.Equal(t, token.LOR, e.Op)
		return func(method, uri string) bool { return x(method, uri) || y(method, uri) }
	}
	call, ok := expression.(*ast.CallExpr)
	require.True(t, ok, "%T", expression)
	require.Len(t, call.Args, 1)
	argument, err := strconv.Unquote(call.Args[0].(*ast.BasicLit).Value)
	require.NoError(t, err)
	switch name := call.Fun.(*ast.Ident).Name; name {
	case "Host":
		require.Equal(t, host, argument)
		return func(string, string) bool { return true }
	case "Method":
		return func(method, _ string) bool { return method == argument }
	default:
		require.Equal(t, "PathRegexp", name)
		pattern := regexp.MustCompile(argument)
		return func(_, uri string) bool {
			path, _, _ := strings.Cut(uri, "?")
			return pattern.MatchString(path)
		}
	}
}

// TestRulesAreTheDocuments holds the rules of the files in deploy against the documents,
// without a proxy.
func TestRulesAreTheDocuments(t *testing.T) {
	t.Parallel()
	table := documented(t)
	requests := table.Requests()
	for _, uris := range known {
		for _, request := range uris {
			method, uri, _ := strings.Cut(request, " ")
			requests = append(requests, Request{Method: method, URI: uri, Backend: table.Backend(method, uri)})
		}
	}
	require.Greater(t, len(requests), 1000)
	for name, rulesIn := range rulesOf {
		rules, used := rulesIn(t, read(t, name)), map[string]bool{}
		for _, r := range requests {
			backend := Outside
			if i := slices.IndexFunc(rules, func(rule rule) bool { return rule.matches(r.Method, r.URI) }); i >= 0 {
				backend = rules[i].backend
				used[rules[i].text] = true
			}
			require.Equal(t, r.Backend, backend, "%s: %s %s", name, r.Method, r.URI)
		}
		for _, rule := range rules {
			require.True(t, used[rule.text], "%s: no request is like %s", name, rule.text)
		}
	}
}
