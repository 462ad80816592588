package access

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/homeserver"
	"lethe/internal/mas"
	"lethe/internal/messages"
)

// What only reads history remembers for a moment what the database says, but nothing
// that the homeserver says: there a token may speak for many users.
func TestOnlyTheDatabaseIsRemembered(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "whoami") {
			w.WriteHeader(http.StatusForbidden)
			_, _ = fmt.Fprint(w, `{"errcode":"M_FORBIDDEN"}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"user_id":%q}`, r.URL.Query().Get("user_id"))
	}))
	defer server.Close()
	client, err := homeserver.New(server.URL, homeserver.Options{})
	require.NoError(t, err)
	defer client.Close()
	service, err := mas.New("http://mas", "secret", mas.Options{})
	require.NoError(t, err)

	asked := 0
	database := func(*http.Request, string) (messages.Reader, error) {
		asked++
		return messages.Reader{UserID: "@database:x"}, nil
	}
	as := func(user string) *http.Request {
		return httptest.NewRequest(http.MethodGet, "/?user_id="+user, http.NoBody)
	}
	requireUser := func(identify identifier, user, want string) {
		t.Helper()
		reader, err := identify(as(user), "token")
		require.NoError(t, err)
		require.Equal(t, want, reader.UserID)
	}
	for name, options := range map[string]Options{
		"nothing else":   {},
		"no delegation":  {Homeserver: client, Delegated: func() bool { return false }},
		"MAS and others": {MAS: service, Homeserver: client},
	} {
		asked = 0
		each, recently := options.identifiers(database)
		for range 3 {
			requireUser(each, "@a:x", "@database:x")
		}
		require.Equal(t, 3, asked, name)
		for range 3 {
			requireUser(recently, "@a:x", "@database:x")
		}
		require.Equal(t, 4, asked, name)
	}
	for name, options := range map[string]Options{
		"homeserver": {Homeserver: client},
		"delegation": {Homeserver: client, Delegated: func() bool { return true }},
	} {
		asked = 0
		each, recently := options.identifiers(database)
		for _, identify := range []identifier{each, recently} {
			requireUser(identify, "@a:x", "@a:x")
			requireUser(identify, "@b:x", "@b:x")
		}
		require.Zero(t, asked, name)
	}
}
