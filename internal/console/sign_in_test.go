package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSignInAndOut(t *testing.T) {
	t.Parallel()
	l := setup(t)
	b := l.browser()
	for _, path := range []string{"/", "/jobs", "/jobs?state=failed", "/jobs/AAAAAAAAAAAAAAAA", "/jobs/AAAAAAAAAAAAAAAA/cancel"} {
		p := b.get(path)
		require.Equal(t, http.StatusSeeOther, p.status, path)
		require.Equal(t, root+"/sign-in?next="+url.QueryEscape(root+path), p.header.Get("Location"))
		require.NotContains(t, p.body, "Requester")
	}
	require.Equal(t, root+"/", b.get("").header.Get("Location"))
	require.Equal(t, http.StatusUnauthorized, b.get("/live").status)
	require.Contains(t, b.get("/sign-in?next=/_lethe/console/jobs").body, `name="next" value="/_lethe/console/jobs"`)

	p := b.send("POST", root+"/sign-in", url.Values{"token": {" syt_admin\n"}, "next": {root + "/jobs?kind=x"}})
	require.Equal(t, http.StatusSeeOther, p.status, p.body)
	require.Equal(t, root+"/jobs?kind=x", p.header.Get("Location"))
	set := p.header.Get("Set-Cookie")
	require.Regexp(t, `^__Host-lethe_console=[\w-]{43}; Path=/; Max-Age=3599; HttpOnly; Secure; SameSite=Strict$`, set)
	require.Contains(t, b.get("/").body, "@admin:x")
	require.Len(t, l.redis.keys(), 1)

	twin := &browser{l, map[string]string{cookie: b.cookies[cookie]}} // another tab
	p = b.send("POST", root+"/sign-out", url.Values{"proof": {b.proof()}})
	require.Equal(t, root+"/sign-in?out=1", p.header.Get("Location"))
	require.Empty(t, b.cookies)
	require.Empty(t, l.redis.keys())
	require.Equal(t, http.StatusSeeOther, twin.get("/").status, "the session has not ended in the other tab")
	require.Contains(t, b.get("/sign-in?out=1").body, "You have signed out.")
}

func TestSignInRefusals(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for token, want := range map[string]struct {
		status int
		text   string
	}{
		"":                   {400, "Enter an access token."},
		"wrong":              {401, "Invalid access token passed. Sign in with a valid access token of a server admin."},
		"syt_user":           {403, "You are not a server admin. Use the access token of a server admin."},
		"syt_guest":          {403, "Guest access not allowed."},
		"two words":          {401, "Invalid access token passed."},
		"\x00":               {401, "Invalid access token passed."},
		"<script>alert(1)//": {401, "Invalid access token passed."},
	} {
		b := l.browser()
		p := b.send("POST", root+"/sign-in", url.Values{"token": {token}})
		require.Equal(t, want.status, p.status, "%q: %s", token, p.body)
		require.Contains(t, p.body, want.text, token)
		require.Empty(t, b.cookies, token)
		require.NotContains(t, p.body, "<script>alert")
	}
	require.Empty(t, l.redis.keys())
	large := l.browser().send("POST", root+"/sign-in", url.Values{"token": {strings.Repeat("a", 1<<17)}})
	require.Equal(t, http.StatusBadRequest, large.status)
	require.Contains(t, large.body, "The form cannot be read.")
}

// Wrong tokens count with those of the API.
func TestGuessesAreLimited(t *testing.T) {
	t.Parallel()
	l := setup(t)
	b := l.browser()
	for range 12 {
		b.send("GET", "/_lethe/v1/jobs", nil, "Authorization", "Bearer guess")
	}
	p := b.send("POST", root+"/sign-in", url.Values{"token": {"guess"}})
	require.Equal(t, http.StatusTooManyRequests, p.status, p.body)
	require.Contains(t, p.body, "Too many wrong access tokens. Try again in 1 s.")
	require.Equal(t, "1", p.header.Get("Retry-After"))
	l.signedIn("syt_admin")
}

// A cookie that was there before the sign-in, perhaps from an attacker, is worth nothing
// after it.
func TestSessionIsNewAtSignIn(t *testing.T) {
	t.Parallel()
	l := setup(t)
	attacker := l.signedIn("syt_other")
	victim := &browser{l, map[string]string{cookie: attacker.cookies[cookie]}}
	require.Equal(t, http.StatusSeeOther, victim.send("POST", root+"/sign-in", url.Values{"token": {"syt_admin"}}).status)
	require.NotEqual(t, attacker.cookies[cookie], victim.cookies[cookie])
	require.Contains(t, victim.get("/").body, "@admin:x")
	require.Equal(t, http.StatusSeeOther, attacker.get("/").status)

	made := &browser{l, map[string]string{cookie: strings.Repeat("A", 43)}}
	require.Equal(t, http.StatusSeeOther, made.send("POST", root+"/sign-in", url.Values{"token": {"syt_admin"}}).status)
	require.NotEqual(t, strings.Repeat("A", 43), made.cookies[cookie])
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	l := setup(t)
	revoked, demoted, deactivated := l.signedIn("syt_admin"), l.signedIn("syt_other"), l.signedIn("syt_support")
	require.Equal(t, http.StatusOK, revoked.get("/").status)
	l.Exec(`DELETE FROM access_tokens WHERE token = 'syt_admin'`)
	l.Exec(`UPDATE users SET admin = 0 WHERE name = '@other:x'`)
	l.Exec(`UPDATE users SET deactivated = 1 WHERE name = '@support:x'`)
	for name, b := range map[string]*browser{"revoked": revoked, "demoted": demoted, "deactivated": deactivated} {
		require.Equal(t, http.StatusSeeOther, b.get("/").status, name)
	}
	require.Empty(t, l.redis.keys(), "the sessions are still there")

	short := setupFor(t, 300*time.Millisecond)
	b := short.signedIn("syt_admin")
	require.Eventually(t, func() bool { return b.get("/").status == http.StatusSeeOther }, 10*time.Second, 20*time.Millisecond)
	p := b.send("POST", root+"/jobs/AAAAAAAAAAAAAAAA/cancel", url.Values{"proof": {"x"}})
	require.Equal(t, root+"/sign-in?ended=1", p.header.Get("Location"))
	require.Contains(t, b.get("/sign-in?ended=1").body, "Your session has ended, and nothing was changed.")
}

func TestNextLeadsToTheConsoleAlone(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for _, next := range []string{
		"https://evil.example.org/", "//evil.example.org/_lethe/console/", "/_lethe/v1/jobs", "/_lethe/console/../v1/jobs", "/", "",
		`/\evil.example.org`, "/_lethe/console/%2e%2e/x", "javascript:alert(1)", "/_lethe/console/\r\nSet-Cookie: a=b", "/_lethe/consoleevil/",
		"http:/_lethe/console/", "/_lethe/console//evil.example.org",
	} {
		p := l.browser().send("POST", root+"/sign-in", url.Values{"token": {"syt_admin"}, "next": {next}})
		require.Equal(t, root+"/", p.header.Get("Location"), next)
	}
}

// Another site's page must not change anything, nor sign a user in as another one.
func TestFormsAreOfTheSessionItself(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue("!a:x")
	cancel := root + "/jobs/" + id + "/cancel"
	b, other := l.signedIn("syt_admin"), l.signedIn("syt_admin")
	proof := b.proof()
	for name, send := range map[string]func() page{
		"no proof":          func() page { return b.send("POST", cancel, url.Values{}) },
		"another session's": func() page { return b.send("POST", cancel, url.Values{"proof": {other.proof()}}) },
		"in the query":      func() page { return b.send("POST", cancel+"?proof="+proof, url.Values{}) },
		"another site": func() page {
			return b.send("POST", cancel, url.Values{"proof": {proof}}, "Sec-Fetch-Site", "cross-site")
		},
		"a sibling": func() page {
			return b.send("POST", cancel, url.Values{"proof": {proof}}, "Sec-Fetch-Site", "same-site")
		},
		"another origin": func() page {
			return b.send("POST", cancel, url.Values{"proof": {proof}}, "Origin", "https://evil.example.org")
		},
		"no origin": func() page { return b.send("POST", cancel, url.Values{"proof": {proof}}, "Origin", "null") },
		"sign-in of another site": func() page {
			return b.send("POST", root+"/sign-in", url.Values{"token": {"syt_other"}}, "Sec-Fetch-Site", "cross-site")
		},
		"sign-out of another site": func() page {
			return b.send("POST", root+"/sign-out", url.Values{"proof": {proof}}, "Sec-Fetch-Site", "cross-site")
		},
		"sign-out without a proof": func() page { return b.send("POST", root+"/sign-out", url.Values{}) },
	} {
		p := send()
		require.Equal(t, http.StatusForbidden, p.status, name)
		require.Contains(t, p.body, "Nothing was changed", name)
		require.Contains(t, p.body, "Go back to the page, reload it, and try again.", name)
	}
	require.Equal(t, http.StatusMethodNotAllowed, b.get("/sign-out").status)
	require.Equal(t, "queued", storetestState(l, id))
	require.Contains(t, b.get("/").body, "@admin:x")

	p := b.send("POST", cancel, url.Values{"proof": {proof}, "reason": {"why"}}, "Sec-Fetch-Site", "same-origin", "Origin", l.server.URL)
	require.Equal(t, root+"/jobs/"+id+"?done=cancel", p.header.Get("Location"), p.body)
	require.Equal(t, "cancelled", storetestState(l, id))
}

func TestReadersLookAndDoNotTouch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	id := l.Queue("!a:x")
	for _, token := range []string{"syt_support", "syt_careful"} {
		b := l.signedIn(token)
		p := b.get("/jobs/" + id)
		require.Equal(t, http.StatusOK, p.status)
		require.Contains(t, p.body, "You may look and not touch.")
		require.NotContains(t, p.body, "/cancel")
		for _, verb := range []string{"cancel", "pause", "resume", "retry", "priority"} {
			form := url.Values{"proof": {b.proof()}, "queue": {"low"}}
			for _, p := range []page{b.send("POST", root+"/jobs/"+id+"/"+verb, form), b.get("/jobs/" + id + "/" + verb)} {
				require.Equal(t, http.StatusForbidden, p.status, verb)
				require.Contains(t, p.body, "You may look and not touch: console.readers in the settings lists you.")
				require.Contains(t, p.body, "Ask a server admin to do it.")
			}
		}
		require.Equal(t, http.StatusSeeOther, b.send("POST", root+"/sign-out", url.Values{"proof": {b.proof()}}).status)
	}
	require.Equal(t, "queued", storetestState(l, id))
	require.Equal(t, http.StatusForbidden, l.browser().send("GET", "/_lethe/v1/jobs", nil, "Authorization", "Bearer syt_support").status, "the API lets a reader in")
}
