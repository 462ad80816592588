package routing

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// host is the name that the files in deploy serve.
const host = "matrix.example.org"

// patience is how long a test waits for what a proxy does soon.
const patience = time.Minute

// A proxy is a program and how it is started with the files in deploy.
type proxy struct {
	files []string
	start func(t *testing.T, s site) *exec.Cmd
}

// A site is what a proxy is started with: its program, a folder with its files, the port that
// it serves, and the files of a certificate and its key.
type site struct{ program, folder, port, certificate, key string }

var proxies = map[string]proxy{
	"nginx": {[]string{"deploy/nginx/lethe.conf", "deploy/nginx/lethe-locations.conf"}, startNginx},
	"caddy": {[]string{"deploy/caddy/Caddyfile"}, startCaddy},
}

func startNginx(t *testing.T, s site) *exec.Cmd {
	t.Helper()
	const file = `
		pid %[1]s/pid; error_log stderr; daemon off; master_process off;
		events {}
		http {
			access_log off;
			client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/x; uwsgi_temp_path %[1]s/x; scgi_temp_path %[1]s/x;
			include %[1]s/lethe.conf;
			server {
				listen 127.0.0.1:%[2]s ssl http2;
				ssl_certificate %[3]s; ssl_certificate_key %[4]s;
				error_page 502 /50x.html;
				root %[1]s;
				include %[1]s/lethe-locations.conf;
			}
		}`
	main := filepath.Join(s.folder, "nginx.conf")
	require.NoError(t, os.WriteFile(main, fmt.Appendf(nil, file, s.folder, s.port, s.certificate, s.key), 0o600))
	tested, err := exec.CommandContext(t.Context(), s.program, "-t", "-e", "stderr", "-c", main).CombinedOutput()
	require.NoError(t, err, "%s", tested)
	return exec.CommandContext(t.Context(), s.program, "-e", "stderr", "-c", main)
}

func startCaddy(t *testing.T, s site) *exec.Cmd {
	t.Helper()
	file := filepath.Join(s.folder, "Caddyfile")
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	replace(t, file, string(text), host+" {", fmt.Sprintf(
		"{\n\tadmin off\n\tauto_https off\n}\nhttps://%s:%s {\n\tbind 127.0.0.1\n\ttls %s %s", host, s.port, s.certificate, s.key), 1)
	environment := append(os.Environ(), "HOME="+s.folder, "XDG_DATA_HOME="+s.folder, "XDG_CONFIG_HOME="+s.folder)
	tested := exec.CommandContext(t.Context(), s.program, "validate", "--config", file, "--adapter", "caddyfile")
	tested.Env = environment
	said, err := tested.CombinedOutput()
	require.NoError(t, err, "%s", said)
	command := exec.CommandContext(t.Context(), s.program, "run", "--config", file, "--adapter", "caddyfile")
	command.Env = environment
	return command
}

// replace writes the text into a file, with a part of it replaced that it must have so many
// times.
func replace(t *testing.T, file, text, from, to string, count int) {
	t.Helper()
	require.Equal(t, count, strings.Count(text, from), "%q in %s", from, filepath.Base(file))
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(text, from, to)), 0o600))
}

// A stage is a proxy between two backends.
type stage struct {
	proxy, lethe, synapse string // their addresses

	// arrived has what arrived at a backend, by the value of X-Number.
	arrived *sync.Map

	connection net.Conn
	reader     *bufio.Reader
	number     int
}

// An arrival is a request as it arrived at a backend.
type arrival struct {
	backend     Backend
	method, uri string
	host        string
	header      http.Header
	size        int64
	sum         [sha256.Size]byte
}

// staged starts two backends and the proxy, or skips the test if it is not installed.
func staged(t *testing.T, name string) (s *stage, synapse *httptest.Server) {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: its rules are only compared with the documents, and it is not run", name)
	}
	s = &stage{proxy: freeAddress(t), lethe: freeAddress(t), synapse: freeAddress(t), arrived: &sync.Map{}}
	s.startBackend(t, Lethe)
	synapse = s.startBackend(t, Synapse)
	folder := t.TempDir()
	for _, file := range proxies[name].files {
		path := filepath.Join(folder, filepath.Base(file))
		text := read(t, file)
		if strings.HasSuffix(file, "-locations.conf") { // which has no addresses
			require.NotContains(t, text, "127.0.0.1")
			require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
			continue
		}
		replace(t, path, text, "127.0.0.1:8470", s.lethe, 2)
		changed, err := os.ReadFile(path)
		require.NoError(t, err)
		replace(t, path, string(changed), "127.0.0.1:8008", s.synapse, 2)
	}
	certificate, key := writeCertificate(t, folder)
	_, port, err := net.SplitHostPort(s.proxy)
	require.NoError(t, err)
	command := proxies[name].start(t, site{program, folder, port, certificate, key})
	var said strings.Builder
	command.Stdout, command.Stderr = &said, &said // Wait returns when both have ended
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // it says that the process was killed
		if t.Failed() {
			t.Logf("%s", said.String()[max(0, said.Len()-4000):])
		}
	})
	s.awaitWhoami(t, Synapse)
	return s, synapse
}

// startBackend starts a backend. It answers with its name. A request with X-Fail is
// answered with 503 by the backend of that name, one with X-Break has its connection closed.
func (s *stage) startBackend(t *testing.T, name Backend) *httptest.Server {
	t.Helper()
	address := map[Backend]string{Lethe: s.lethe, Synapse: s.synapse}[name]
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		size, _ := io.Copy(hash, r.Body)
		a := arrival{name, r.Method, r.RequestURI, r.Host, r.Header.Clone(), size, [sha256.Size]byte(hash.Sum(nil))}
		s.arrived.Store(r.Header.Get("X-Number")+string(name), a)
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("X-Backend", string(name))
		switch {
		case r.Header.Get("X-Break") == string(name):
			panic(http.ErrAbortHandler)
		case r.Header.Get("X-Fail") == string(name):
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Header.Get("X-Stream") != "":
			stream(w, r)
			return
		}
		_, _ = io.WriteString(w, string(name))
	}))
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return server
}

// stream sends an event as Lethe does, and another one only when the client has gone or the
// test is over.
func stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	_, _ = io.WriteString(w, "data: 1\n\n")
	_ = http.NewResponseController(w).Flush()
	select {
	case <-r.Context().Done():
	case <-time.After(patience):
	}
}

// freeAddress returns an address at which no server listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().String()
}

// writeCertificate writes a certificate for host and its key.
func writeCertificate(t *testing.T, folder string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour)}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	certificate, key = filepath.Join(folder, "certificate.pem"), filepath.Join(folder, "key.pem")
	require.NoError(t, os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}), 0o600))
	return certificate, key
}

// A reply is what the proxy answered, and what arrived at each backend.
type reply struct {
	status  int
	header  http.Header
	body    string
	arrived map[Backend]arrival
}

// send sends a request byte for byte and reads the answer. lines are more headers.
func (s *stage) send(t *testing.T, method, uri, body string, lines ...string) reply {
	t.Helper()
	response, number, err := s.ask(t, method, uri, body, lines...)
	require.NoError(t, err, "%s %s", method, uri)
	content, err := io.ReadAll(response.Body)
	require.NoError(t, err, "%s %s", method, uri)
	if response.Close {
		s.hangUp()
	}
	r := reply{response.StatusCode, response.Header, string(content), map[Backend]arrival{}}
	for _, backend := range []Backend{Lethe, Synapse} {
		if a, ok := s.arrived.LoadAndDelete(strconv.Itoa(number) + string(backend)); ok {
			r.arrived[backend] = a.(arrival)
		}
	}
	return r
}

// ask is send, but leaves the body of the answer to the caller.
func (s *stage) ask(t *testing.T, method, uri, body string, lines ...string) (*http.Response, int, error) {
	t.Helper()
	if s.connection == nil {
		dialer := tls.Dialer{Config: &tls.Config{ServerName: host, InsecureSkipVerify: true}} // the test's own certificate
		connection, err := dialer.DialContext(t.Context(), "tcp", s.proxy)
		if err != nil {
			return nil, 0, err
		}
		s.connection, s.reader = connection, bufio.NewReader(connection)
	}
	require.NoError(t, s.connection.SetDeadline(time.Now().Add(patience)))
	s.number++
	head := []string{method + " " + uri + " HTTP/1.1", "Host: " + host, "X-Number: " + strconv.Itoa(s.number)}
	if body != "" {
		head = append(head, "Content-Length: "+strconv.Itoa(len(body)))
	}
	message := strings.Join(append(head, lines...), "\r\n") + "\r\n\r\n" + body
	if _, err := io.WriteString(s.connection, message); err != nil {
		s.hangUp()
		return nil, 0, err
	}
	response, err := http.ReadResponse(s.reader, &http.Request{Method: method})
	if err != nil {
		s.hangUp()
	}
	return response, s.number, err
}

// hangUp ends the connection to the proxy.
func (s *stage) hangUp() {
	_ = s.connection.Close()
	s.connection = nil
}

// awaitWhoami waits until the backend answers a request that both can answer.
func (s *stage) awaitWhoami(t *testing.T, backend Backend) {
	t.Helper()
	require.Eventually(t, func() bool {
		response, _, err := s.ask(t, "GET", "/_matrix/client/v3/account/whoami", "")
		if err != nil {
			return false
		}
		_, err = io.Copy(io.Discard, response.Body)
		if err != nil || response.Close {
			s.hangUp()
		}
		return response.Header.Get("X-Backend") == string(backend)
	}, patience, 20*time.Millisecond, "%s does not answer", backend)
}

// bodyOf returns the body of a test's requests with a method.
func bodyOf(method string) string {
	switch method {
	case http.MethodDelete, http.MethodPatch, http.MethodPost, http.MethodPut:
		return "{}"
	}
	return ""
}

// everyProxy runs a test with each proxy.
func everyProxy(t *testing.T, test func(t *testing.T, s *stage, synapse *httptest.Server)) {
	t.Helper()
	for name := range proxies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, synapse := staged(t, name)
			t.Cleanup(func() {
				if s.connection != nil {
					s.hangUp()
				}
			})
			test(t, s, synapse)
		})
	}
}

// requireArrives checks that a request arrives at one backend, as it was sent.
func requireArrives(t *testing.T, asked Request, r reply, backend Backend) {
	t.Helper()
	require.Len(t, r.arrived, 1, "%v: %d %s", asked, r.status, r.body)
	require.Contains(t, r.arrived, backend, "%v", asked)
	a := r.arrived[backend]
	require.Equal(t, asked.Method, a.method, "%v", asked)
	require.Equal(t, asked.URI, a.uri, "%v", asked)
	require.Equal(t, int64(len(bodyOf(asked.Method))), a.size, "%v", asked)
	require.Equal(t, string(backend), r.header.Get("X-Backend"), "%v", asked)
	require.Equal(t, []string{"*"}, r.header.Values("Access-Control-Allow-Origin"), "%v", asked)
}

// TestProxiesSendRequestsWhereTheDocumentsSay sends every request of the table while both
// servers run, and again while Synapse is down.
func TestProxiesSendRequestsWhereTheDocumentsSay(t *testing.T) {
	t.Parallel()
	table := documented(t)
	requests := table.Requests()
	for backend, uris := range known {
		for _, request := range uris {
			method, uri, _ := strings.Cut(request, " ")
			requests = append(requests, Request{Method: method, URI: uri, Backend: backend})
		}
	}
	everyProxy(t, func(t *testing.T, s *stage, synapse *httptest.Server) {
		for _, asked := range requests {
			r := s.send(t, asked.Method, asked.URI, bodyOf(asked.Method))
			switch asked.Backend {
			case Outside:
				requireOutside(t, asked, r)
			case Either:
				requireArrives(t, asked, r, Synapse)
			default:
				requireArrives(t, asked, r, asked.Backend)
			}
		}
		// An error of Synapse's own stays.
		r := s.send(t, "GET", "/_matrix/client/v3/sync", "", "X-Fail: synapse")
		require.Equal(t, http.StatusServiceUnavailable, r.status)
		require.Equal(t, "synapse", r.body)

		synapse.Close()
		s.awaitWhoami(t, Lethe)
		// What Lethe cannot answer without Synapse does not keep others from Lethe.
		for range 3 {
			r := s.send(t, "GET", "/_matrix/client/v3/account/whoami", "", "X-Fail: lethe")
			require.Equal(t, http.StatusServiceUnavailable, r.status)
			require.Equal(t, "lethe", r.body)
		}
		for _, asked := range requests {
			r := s.send(t, asked.Method, asked.URI, bodyOf(asked.Method))
			switch asked.Backend {
			case Outside:
				requireOutside(t, asked, r)
			case Synapse:
				require.Empty(t, r.arrived, "%v", asked)
				requireAway(t, asked, r)
			default:
				requireArrives(t, asked, r, Lethe)
			}
		}
		s.startBackend(t, Synapse)
		s.awaitWhoami(t, Synapse)
	})
}

// requireOutside checks that a request arrives at no backend. Proxies choose the location by
// the path without empty parts, so with two slashes at the beginning a request of Matrix's
// arrives at Synapse, as it was sent.
func requireOutside(t *testing.T, asked Request, r reply) {
	t.Helper()
	if strings.HasPrefix(asked.URI, "//") && len(r.arrived) > 0 {
		requireArrives(t, asked, r, Synapse)
		return
	}
	require.Empty(t, r.arrived, "%v", asked)
}

// requireAway checks the answer of a proxy whose backend cannot be reached.
func requireAway(t *testing.T, asked Request, r reply) {
	t.Helper()
	require.Equal(t, http.StatusBadGateway, r.status, "%v", asked)
	require.Equal(t, "application/json", r.header.Get("Content-Type"), "%v", asked)
	require.Equal(t, []string{"*"}, r.header.Values("Access-Control-Allow-Origin"), "%v", asked)
	require.Contains(t, r.header.Get("Access-Control-Allow-Headers"), "Authorization", "%v", asked)
	if asked.Method != http.MethodHead {
		require.JSONEq(t, `{"errcode":"M_UNKNOWN","error":"The server behind this proxy cannot be reached"}`, r.body, "%v", asked)
	}
}

// TestProxiesSayWhereRequestsComeFrom sends headers that a client has made up.
func TestProxiesSayWhereRequestsComeFrom(t *testing.T) {
	t.Parallel()
	everyProxy(t, func(t *testing.T, s *stage, _ *httptest.Server) {
		for backend, uri := range map[Backend]string{
			Lethe: "/_synapse/admin/v1/rooms", Synapse: "/_matrix/client/v3/sync", Either: "/_matrix/client/versions",
		} {
			for _, lies := range [][]string{nil, {
				"X-Forwarded-For: 192.0.2.9", "X-Forwarded-For: 192.0.2.10", "X-Forwarded-Proto: gopher", "X-Forwarded-Host: evil.example",
				"Forwarded: for=192.0.2.9;host=evil.example", "X-Real-IP: 192.0.2.9",
			}} {
				r := s.send(t, "GET", uri, "", append(lies, "Authorization: Bearer a_token", "Cookie: a=b")...)
				if backend == Either {
					backend = Synapse
				}
				require.Contains(t, r.arrived, backend, uri)
				a := r.arrived[backend]
				require.Equal(t, host, a.host, uri)
				for name, want := range map[string][]string{
					"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {host},
					"Authorization": {"Bearer a_token"}, "Cookie": {"a=b"},
				} {
					require.Equal(t, want, a.header.Values(name), "%s of %s", name, uri)
				}
				for _, name := range []string{"Forwarded", "X-Real-Ip"} {
					require.Empty(t, a.header.Values(name), "%s of %s", name, uri)
				}
			}
		}
	})
}

// TestProxiesPassBodiesAndStreams sends a large body, and reads an event while the request
// for events goes on.
func TestProxiesPassBodiesAndStreams(t *testing.T) {
	t.Parallel()
	everyProxy(t, func(t *testing.T, s *stage, _ *httptest.Server) {
		body := strings.Repeat("0123456789abcdef", 1<<20) // 16 MiB
		for backend, uri := range map[Backend]string{Synapse: "/_matrix/media/v3/upload", Lethe: "/_lethe/v1/plans"} {
			r := s.send(t, "POST", uri, body)
			require.Equal(t, http.StatusOK, r.status, uri)
			require.Equal(t, int64(len(body)), r.arrived[backend].size, uri)
			require.Equal(t, sha256.Sum256([]byte(body)), r.arrived[backend].sum, uri)
		}
		response, _, err := s.ask(t, "GET", "/_lethe/v1/events", "", "X-Stream: 1", "Accept: text/event-stream", "Accept-Encoding: gzip")
		require.NoError(t, err)
		require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
		require.NoError(t, s.connection.SetDeadline(time.Now().Add(patience/2))) // before the stream would end
		event := make([]byte, len("data: 1\n\n"))
		_, err = io.ReadFull(response.Body, event)
		require.NoError(t, err)
		require.Equal(t, "data: 1\n\n", string(event))
		s.hangUp()
	})
}

// TestProxiesKeepMetricsInside tests that no backend sees a request for what operators see at
// the processes themselves, however it is written.
func TestProxiesKeepMetricsInside(t *testing.T) {
	t.Parallel()
	everyProxy(t, func(t *testing.T, s *stage, _ *httptest.Server) {
		for _, uri := range []string{
			"/metrics", "//metrics", "/./metrics", "/metrics?a=/_lethe/v1/", "/%6detrics", "/healthz", "/readyz", "/debug/pprof/",
			"/_lethe/v1/../../metrics", "/_lethe/v1/%2e%2e/%2e%2e/metrics", "/_matrix/../metrics", "/_synapse/admin/../../metrics",
		} {
			r := s.send(t, "GET", uri, "")
			require.Empty(t, r.arrived, uri)
		}
	})
}

// TestProxiesDoNotRepeatChanges tests that a request which Synapse has got is not sent to
// Lethe, if Synapse breaks off.
func TestProxiesDoNotRepeatChanges(t *testing.T) {
	t.Parallel()
	everyProxy(t, func(t *testing.T, s *stage, _ *httptest.Server) {
		asked := Request{Method: "POST", URI: "/_matrix/client/v3/login"}
		r := s.send(t, asked.Method, asked.URI, "{}", "X-Break: synapse")
		require.Contains(t, r.arrived, Synapse)
		require.NotContains(t, r.arrived, Lethe)
		requireAway(t, asked, r)
	})
}

// TestProxiesSpeakHTTP2 sends some requests as browsers do.
func TestProxiesSpeakHTTP2(t *testing.T) {
	t.Parallel()
	requests := documented(t).Requests()
	everyProxy(t, func(t *testing.T, s *stage, _ *httptest.Server) {
		transport := &http.Transport{
			ForceAttemptHTTP2: true,
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the test's own certificate
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, s.proxy)
			},
		}
		t.Cleanup(transport.CloseIdleConnections)
		for i, asked := range requests {
			if i%10 != 0 || asked.Backend == Outside {
				continue
			}
			request, err := http.NewRequestWithContext(t.Context(), asked.Method, "https://"+host, strings.NewReader(bodyOf(asked.Method)))
			require.NoError(t, err)
			path, query, found := strings.Cut(asked.URI, "?")
			request.URL.Opaque, request.URL.RawQuery, request.URL.ForceQuery = path, query, found && query == ""
			request.Header.Set("X-Number", "h2-"+strconv.Itoa(i))
			response, err := transport.RoundTrip(request)
			require.NoError(t, err, "%v", asked)
			_, err = io.Copy(io.Discard, response.Body)
			require.NoError(t, err, "%v", asked)
			require.NoError(t, response.Body.Close())
			require.Equal(t, 2, response.ProtoMajor)
			backend := asked.Backend
			if backend == Either {
				backend = Synapse
			}
			arrived, found := s.arrived.Load("h2-" + strconv.Itoa(i) + string(backend))
			require.True(t, found, "%v: %d", asked, response.StatusCode)
			require.Equal(t, asked.URI, arrived.(arrival).uri)
			require.Equal(t, host, arrived.(arrival).host)
		}
	})
}
