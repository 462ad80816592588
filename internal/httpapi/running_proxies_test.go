package httpapi

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A startProxy returns the command that serves the files in a folder at an address.
type startProxy func(t *testing.T, program, folder, address string) *exec.Cmd

// startBackend starts a backend at an address. It answers with its name and what it was
// asked.
func startBackend(t *testing.T, name, address string) *httptest.Server {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Backend", name)
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("X-Forwarded", r.Host+" "+r.Header.Get("X-Forwarded-For")+" "+r.Header.Get("X-Forwarded-Proto"))
		if r.Header.Get("X-Fail") == name {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.RequestURI, body)
	}))
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// freeAddress returns an address at which no server listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().String()
}

func startNginx(t *testing.T, program, folder, address string) *exec.Cmd {
	t.Helper()
	const file = `
		pid %[1]s/pid; error_log stderr; daemon off; master_process off;
		events {}
		http {
			access_log off;
			client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/x; uwsgi_temp_path %[1]s/x; scgi_temp_path %[1]s/x;
			include %[1]s/lethe.conf;
			server { listen %[2]s; error_page 502 /50x.html; include %[1]s/lethe-locations.conf; }
		}`
	main := filepath.Join(folder, "nginx.conf")
	require.NoError(t, os.WriteFile(main, fmt.Appendf(nil, file, folder, address), 0o600))
	tested, err := exec.CommandContext(t.Context(), program, "-t", "-e", "stderr", "-c", main).CombinedOutput()
	require.NoError(t, err, "%s", tested)
	return exec.CommandContext(t.Context(), program, "-e", "stderr", "-c", main)
}

func startCaddy(t *testing.T, program, folder, address string) *exec.Cmd {
	t.Helper()
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	file := filepath.Join(folder, "Caddyfile")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	changed := strings.Replace(string(text), proxyHost+" {", "{\n\tadmin off\n\tauto_https off\n}\nhttp://"+proxyHost+":"+port+" {\n\tbind 127.0.0.1", 1)
	require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
	command := exec.CommandContext(t.Context(), program, "run", "--config", file, "--adapter", "caddyfile")
	command.Env = append(os.Environ(), "HOME="+folder, "XDG_DATA_HOME="+folder, "XDG_CONFIG_HOME="+folder)
	return command
}

func startTraefik(t *testing.T, program, folder, address string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), program, "--entryPoints.web.address="+address,
		"--providers.file.filename="+filepath.Join(folder, "lethe.yml"), "--global.checkNewVersion=false", "--global.sendAnonymousUsage=false")
}

// TestProxies runs each proxy that is installed, with the files in deploy, between two
// backends. It asks both while they run, and again when Synapse has stopped.
func TestProxies(t *testing.T) {
	t.Parallel()
	for name, proxy := range map[string]struct {
		files []string
		start startProxy
	}{
		"nginx":   {[]string{"nginx/lethe.conf", "nginx/lethe-locations.conf"}, startNginx},
		"caddy":   {[]string{"caddy/Caddyfile"}, startCaddy},
		"traefik": {[]string{"traefik/lethe.yml"}, startTraefik},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(name)
			if err != nil {
				t.Skipf("%s is not installed: its configuration is only compared with the others, not run", name)
			}
			lethe, synapse := freeAddress(t), freeAddress(t)
			startBackend(t, toLethe, lethe)
			homeserver := startBackend(t, toSynapse, synapse)
			folder := t.TempDir()
			for _, file := range proxy.files {
				text := strings.NewReplacer("127.0.0.1:8470", lethe, "127.0.0.1:8008", synapse).Replace(readDeployed(t, file))
				require.NoError(t, os.WriteFile(filepath.Join(folder, filepath.Base(file)), []byte(text), 0o600))
			}
			p := runningProxy{address: freeAddress(t)}
			p.run(t, proxy.start(t, program, folder, p.address))

			requests := routedRequests(t)
			if name == "traefik" { // which makes two slashes one
				requests = slices.DeleteFunc(requests, func(r routedRequest) bool { return strings.Contains(r.uri, "//") })
			}
			p.requireRouted(t, requests)
			// An error of Synapse's own stays.
			r := p.send(t, "GET", "/_matrix/client/v3/sync", toSynapse)
			require.Equal(t, http.StatusServiceUnavailable, r.status)
			require.Equal(t, "GET /_matrix/client/v3/sync ", r.body)

			homeserver.Close()
			p.requireAnswers(t, toLethe)
			// What Lethe cannot answer without Synapse does not keep others from Lethe.
			for range 3 {
				r := p.send(t, "GET", "/_matrix/client/v3/account/whoami", toLethe)
				require.Equal(t, toLethe, r.backend, r.body)
				require.Equal(t, http.StatusServiceUnavailable, r.status)
			}
			p.requireRoutedWithoutSynapse(t, requests, name)

			startBackend(t, toSynapse, synapse)
			p.requireAnswers(t, toSynapse)
		})
	}
}

// A runningProxy is a proxy that serves at an address.
type runningProxy struct{ address string }

// run starts the proxy, and stops it when the test ends. It returns when the proxy serves.
func (p runningProxy) run(t *testing.T, command *exec.Cmd) {
	t.Helper()
	var said strings.Builder
	command.Stdout, command.Stderr = &said, &said // Wait returns when both have ended
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // it says that the process was killed
		if t.Failed() {
			t.Logf("%s", said.String())
		}
	})
	p.requireAnswers(t, toSynapse)
}

// requireAnswers waits until the backend answers a request that both can answer.
func (p runningProxy) requireAnswers(t *testing.T, backend string) {
	t.Helper()
	require.Eventually(t, func() bool {
		r, err := p.ask(t, "GET", "/_matrix/client/v3/account/whoami", "")
		return err == nil && r.backend == backend
	}, time.Minute, 20*time.Millisecond, "%s does not answer", backend)
}

// requireRouted asks what both backends answer.
func (p runningProxy) requireRouted(t *testing.T, requests []routedRequest) {
	t.Helper()
	for _, asked := range requests {
		want := asked.backend
		if want == toEither {
			want = toSynapse
		}
		r := p.send(t, asked.method, asked.uri, "")
		require.Equal(t, want, r.backend, "%v: %d %s", asked, r.status, r.body)
		require.Equal(t, []string{"*"}, r.header.Values("Access-Control-Allow-Origin"), asked)
		require.Equal(t, proxyHost+" 127.0.0.1 http", r.header.Get("X-Forwarded"), asked)
		if asked.method != http.MethodHead {
			body, _ := bodyOf(asked.method)
			require.Equal(t, asked.method+" "+asked.uri+" "+body, r.body, "the request must not change")
		}
	}
}

// requireRoutedWithoutSynapse asks what Lethe answers while Synapse is down.
func (p runningProxy) requireRoutedWithoutSynapse(t *testing.T, requests []routedRequest, name string) {
	t.Helper()
	for _, asked := range requests {
		r := p.send(t, asked.method, asked.uri, "")
		require.Equal(t, []string{"*"}, r.header.Values("Access-Control-Allow-Origin"), asked)
		if asked.backend != toSynapse {
			require.Equal(t, toLethe, r.backend, "%v: %d %s", asked, r.status, r.body)
			continue
		}
		if name == "traefik" { // whose errors are plain text
			require.Contains(t, []int{http.StatusBadGateway, http.StatusServiceUnavailable}, r.status, asked)
			continue
		}
		require.Equal(t, http.StatusBadGateway, r.status, asked)
		require.Equal(t, "application/json", r.header.Get("Content-Type"), asked)
		require.Contains(t, r.header.Get("Access-Control-Allow-Headers"), "Authorization", asked)
		require.JSONEq(t, `{"errcode":"M_UNKNOWN","error":"The server behind this proxy cannot be reached"}`, r.body, asked)
	}
}

// A proxyReply is what a proxy answered, and which backend, "" for the proxy itself.
type proxyReply struct {
	backend string
	status  int
	header  http.Header
	body    string
}

// send sends a request to the proxy. The backend called failing answers it with 503.
func (p runningProxy) send(t *testing.T, method, uri, failing string) proxyReply {
	t.Helper()
	r, err := p.ask(t, method, uri, failing)
	require.NoError(t, err, "%s %s", method, uri)
	return r
}

// ask is send, but returns the error.
func (p runningProxy) ask(t *testing.T, method, uri, failing string) (proxyReply, error) {
	t.Helper()
	_, content := bodyOf(method)
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+p.address+uri, content)
	require.NoError(t, err)
	request.Host = proxyHost
	request.Header.Set("X-Fail", failing)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return proxyReply{}, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return proxyReply{response.Header.Get("X-Backend"), response.StatusCode, response.Header, string(body)}, err
}

// bodyOf returns the body of the requests of a method.
func bodyOf(method string) (string, io.Reader) {
	switch method {
	case http.MethodDelete, http.MethodPost, http.MethodPut:
		return "{}", strings.NewReader("{}")
	}
	return "", nil
}
