package doctor

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/config"
	"lethe/internal/mas/mastest"
)

func TestAccounts(t *testing.T) {
	t.Parallel()
	homeserver := func(metadata int) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/_matrix/client/versions":
				_, _ = io.WriteString(w, `{"versions":[]}`)
			case metadata != 0 && r.URL.Path == "/_matrix/client/v1/auth_metadata":
				w.WriteHeader(metadata)
				_, _ = io.WriteString(w, `{"issuer":"https://mas.doctor.test/"}`)
			default:
				w.WriteHeader(404)
				_, _ = io.WriteString(w, `{"errcode":"M_UNRECOGNIZED"}`)
			}
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	down := httptest.NewServer(nil)
	down.Close()
	service := mastest.New()
	url := service.Start(t)
	at := func(url, secret string) func(*config.Config) {
		return func(c *config.Config) { c.MAS = config.MAS{URL: url, Secret: config.Secret(secret)} }
	}
	for name, test := range map[string]struct {
		change  func(*config.Config)
		verdict Verdict
		says    string
	}{
		"database":            {func(*config.Config) {}, OK, "access tokens are looked up in the database"},
		"MAS":                 {at(url, mastest.Secret), OK, "which answers and accepts the secret"},
		"wrong secret":        {at(url, "hunter2"), Mend, "refuses the secret: set LETHE_MAS_SECRET"},
		"unusable secret":     {at(url, "hunter2 x"), Mend, "cannot be sent in a header"},
		"no secret":           {at(url, ""), Mend, "set LETHE_MAS_SECRET, or let the doctor read the file"},
		"MAS is down":         {at(down.URL, "hunter2"), Mend, "connection refused"},
		"another path":        {at(url+"/auth", mastest.Secret), Mend, "correct LETHE_MAS_URL, or start the service: ask Matrix Authentication Service about an access token: Matrix Authentication Service cannot answer: status 404"},
		"keeps its accounts":  {func(c *config.Config) { c.Homeserver.URL = homeserver(0) }, OK, "because the homeserver keeps its accounts"},
		"delegates":           {func(c *config.Config) { c.Homeserver.URL = homeserver(200) }, Advice, "because it delegates its accounts; set LETHE_MAS_URL"},
		"delegates, database": {func(c *config.Config) { c.Homeserver.URL, c.Auth = homeserver(200), config.AuthDatabase }, Mend, "so access tokens are not in the database: set LETHE_MAS_URL"},
		"cannot tell":         {func(c *config.Config) { c.Homeserver.URL = homeserver(500) }, Advice, "which it cannot tell now"},
		"is down":             {func(c *config.Config) { c.Homeserver.URL = down.URL }, Advice, "connection refused"},
		"homeserver":          {func(c *config.Config) { c.Homeserver.URL, c.Auth = homeserver(0), config.AuthHomeserver }, OK, "checked at the homeserver, which answers"},
		"homeserver is down":  {func(c *config.Config) { c.Homeserver.URL, c.Auth = down.URL, config.AuthHomeserver }, Mend, "the homeserver does not answer"},
		"file delegates":      {func(c *config.Config) { c.Homeserver.Delegates = true }, Mend, "set LETHE_MAS_URL and LETHE_MAS_SECRET, or LETHE_HOMESERVER_URL"},
		"invalid homeserver":  {func(c *config.Config) { c.Homeserver.URL = "x" }, Mend, "must be a homeserver's URL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			settings := config.Default()
			test.change(&settings)
			var report Report
			report.examineAccounts(t.Context(), settings)
			found := finding(t, report, "accounts")
			require.Equal(t, test.verdict, found.Verdict)
			require.Contains(t, found.Says, test.says)
			var printed bytes.Buffer
			require.NoError(t, report.Print(&printed))
			require.NotContains(t, printed.String(), "hunter2")
			require.NotContains(t, printed.String(), mastest.Secret)
		})
	}
}

// The whole report has the line.
func TestReportHasAccounts(t *testing.T) {
	t.Parallel()
	w := embedded(t)
	require.Equal(t, OK, finding(t, examineAs(w, w.url), "accounts").Verdict)
}
