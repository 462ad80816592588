package traefik

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/traefik/paerser/file"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/middlewares/requestdecorator"
	muxer "github.com/traefik/traefik/v3/pkg/muxer/http"
)

// root is the top of the repository.
const root = "../.."

// host is the name that the file serves.
const host = "matrix.example.org"

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(root + "/" + name)
	require.NoError(t, err)
	return string(text)
}

// configuration returns the file as Traefik decodes it, which refuses unknown fields.
func configuration(t *testing.T) *dynamic.HTTPConfiguration {
	t.Helper()
	decoded := &dynamic.Configuration{}
	require.NoError(t, file.DecodeContent(read(t, "deploy/traefik/lethe.yml"), ".yml", decoded))
	require.Nil(t, decoded.TCP)
	require.Nil(t, decoded.UDP)
	require.NotNil(t, decoded.HTTP)
	return decoded.HTTP
}

// TestFileIsWhole tests that each router has what it names, and that services without servers
// name others.
func TestFileIsWhole(t *testing.T) {
	t.Parallel()
	c := configuration(t)
	for name, router := range c.Routers {
		require.Contains(t, c.Services, router.Service, name)
		require.Empty(t, router.EntryPoints, name)
		require.Positive(t, router.Priority, name)
		require.Equal(t, []string{"readable-errors"}, router.Middlewares, name)
	}
	require.NotNil(t, c.Middlewares["readable-errors"].Headers)
	require.Equal(t, map[string]string{"Access-Control-Allow-Origin": "*"}, c.Middlewares["readable-errors"].Headers.CustomResponseHeaders)
	for name, url := range map[string]string{"lethe": "http://127.0.0.1:8470", "synapse": "http://127.0.0.1:8008"} {
		servers := c.Services[name].LoadBalancer.Servers
		require.Len(t, servers, 1, name)
		require.Equal(t, url, servers[0].URL, name)
	}
	failover := c.Services["synapse-or-lethe"].Failover
	require.Equal(t, dynamic.Failover{Service: "synapse", Fallback: "lethe"}, *failover)
	require.NotNil(t, c.Services["synapse"].LoadBalancer.HealthCheck, "the failover needs it")
}

// A request is one of lethe/test/routing, with its backend, "" for none.
type request struct{ Method, URI, Merged string }

// requested returns the requests of the documents. Lethe's module cannot be one with
// Traefik's, because both need other versions of the same modules, so a program of Lethe's
// prints them.
func requested(t *testing.T) (requests []request) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "run", "./test/routing/print")
	command.Dir = root
	printed, err := command.Output()
	require.NoError(t, err)
	for decoder := json.NewDecoder(bytes.NewReader(printed)); decoder.More(); {
		var r request
		require.NoError(t, decoder.Decode(&r))
		requests = append(requests, r)
	}
	return requests
}

// TestRoutersAreTheDocuments sends the requests of the documents' table to Traefik's muxer
// with the routers of the file.
func TestRoutersAreTheDocuments(t *testing.T) {
	t.Parallel()
	syntax, err := muxer.NewSyntaxParser()
	require.NoError(t, err)
	mux := muxer.NewMuxer(syntax)
	used := map[string]bool{}
	for name, router := range configuration(t).Routers {
		backend := strings.ReplaceAll(router.Service, "-", "_")
		require.NoError(t, mux.AddRoute(router.Rule, router.RuleSyntax, router.Priority, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			used[name] = true
			w.Header().Set("X-Backend", backend)
		})), name)
	}
	decorator := requestdecorator.New(nil)
	ask := func(method, uri, name string) string {
		message := method + " " + uri + " HTTP/1.1\r\nHost: " + name + "\r\n\r\n"
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader(message)))
		require.NoError(t, err, uri)
		request.URL = request.URL.JoinPath() // as Traefik's entry points do
		recorder := httptest.NewRecorder()
		decorator.ServeHTTP(recorder, request, mux.ServeHTTP)
		return recorder.Header().Get("X-Backend")
	}
	requests := requested(t)
	require.Greater(t, len(requests), 1000)
	for _, r := range requests {
		require.Equal(t, r.Merged, ask(r.Method, r.URI, host), "%s %s", r.Method, r.URI)
		require.Empty(t, ask(r.Method, r.URI, "other.example.org"), "%s %s", r.Method, r.URI)
	}
	for name := range configuration(t).Routers {
		require.True(t, used[name], "no request is like %s", name)
	}
}
