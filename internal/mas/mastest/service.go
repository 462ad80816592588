package mastest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Secret is the secret that a [Service] shares with its homeserver.
const Secret = "the-shared-secret"

// The scopes that a homeserver knows.
const (
	API    = "urn:matrix:client:api:*"
	Admin  = "urn:synapse:admin:*"
	Device = "urn:matrix:client:device:"
)

// A Service answers as Matrix Authentication Service does. It is safe for concurrent use.
type Service struct {
	mu     sync.Mutex
	tokens map[string]map[string]any
	asked  int
}

// New returns a Service that knows no token.
func New() *Service { return &Service{tokens: map[string]map[string]any{}} }

// Start starts the Service on an address of its own, until the test has ended, and
// returns its URL.
func (s *Service) Start(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL
}

// Issue makes an access token of an OAuth 2.0 session, which expires in 300 s. Username
// "" is a session of a client alone.
func (s *Service) Issue(token, username, scope string) {
	answer := map[string]any{
		"active": true, "scope": scope, "client_id": "01H8PKNWKKRPCBW4YGH1RWV279", "token_type": "access_token",
		"exp": 1757000300, "expires_in": 300, "iat": 1757000000, "nbf": 1757000000, "jti": "mat_x",
	}
	if username != "" {
		answer["username"], answer["sub"] = username, "01HJ9QVA0RHSZTQ8RY7HBT6W2N"
	}
	s.Put(token, answer)
}

// IssueLegacy makes an access token of a legacy login, which has its device in a field
// of its own and does not expire.
func (s *Service) IssueLegacy(token, username, device string) {
	s.Put(token, map[string]any{
		"active": true, "scope": API + " urn:matrix:org.matrix.msc2967.client:api:*", "client_id": "legacy",
		"username": username, "sub": "01HJ9QVA0RHSZTQ8RY7HBT6W2N", "token_type": "access_token", "device_id": device,
		"iat": 1757000000, "nbf": 1757000000,
	})
}

// Put makes the Service answer with this about a token.
func (s *Service) Put(token string, answer map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = answer
}

// Revoke makes the Service forget a token.
func (s *Service) Revoke(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, token)
}

// Asked returns how many requests there were.
func (s *Service) Asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// ServeHTTP implements [http.Handler].
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	status, answer := s.answer(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

// answer returns the answer to a request. The caller holds mu.
func (s *Service) answer(r *http.Request) (status int, answer map[string]any) {
	switch {
	case r.URL.Path != "/oauth2/introspect":
		return http.StatusNotFound, map[string]any{}
	case r.Method != http.MethodPost:
		return http.StatusMethodNotAllowed, map[string]any{}
	case r.Header.Get("Authorization") != "Bearer "+Secret:
		return http.StatusUnauthorized, map[string]any{"error": "access_denied"}
	case r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || r.ParseForm() != nil || !r.PostForm.Has("token"):
		return http.StatusBadRequest, map[string]any{"error": "invalid_request"}
	}
	known, ok := s.tokens[r.PostForm.Get("token")]
	hint := r.PostForm.Get("token_type_hint")
	if !ok || hint != "" && hint != "access_token" {
		return http.StatusOK, map[string]any{"active": false}
	}
	answer = maps.Clone(known)
	if device, ok := answer["device_id"]; ok && r.Header.Get("X-MAS-Supports-Device-Id") != "1" {
		delete(answer, "device_id")
		answer["scope"] = answer["scope"].(string) + " " + Device + device.(string)
	}
	return http.StatusOK, answer
}
