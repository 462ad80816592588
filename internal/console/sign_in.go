package console

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"lethe/internal/console/session"
	"lethe/internal/wire"
)

// cookieName is the name of the session's cookie. A browser takes a cookie of such a name
// only from the host itself, over a connection that it trusts, for all paths.
const cookieName = "__Host-lethe_console"

// maxForm is the maximum length of a form in bytes.
const maxForm = 64 << 10

var (
	errOtherSite = wire.Forbidden("The request comes from the page of another site. Nothing was changed")
	errProof     = wire.Forbidden("The form is not of this session, which may have ended and begun again since. Nothing was changed")
	errReads     = wire.Forbidden("You may look and not touch: console.readers in the settings lists you. Nothing was changed")
	errForm      = wire.BadRequest("The form cannot be read. Nothing was changed")
)

// errSignedOut is the refusal of a request without a session, as where the answer is no page.
var errSignedOut = wire.New(http.StatusUnauthorized, "M_MISSING_TOKEN", "You are not signed in, or your session has ended")

// findSession finds the session of a request, with its cookie. Whether its access token is
// still good is not checked.
func (c *Console) findSession(v *visit) (found session.Session, sent string, err error) {
	cookie, err := v.r.Cookie(cookieName)
	if err != nil {
		return found, "", errSignedOut
	}
	found, err = c.sessions.Find(v.r.Context(), cookie.Value)
	switch {
	case errors.Is(err, session.ErrNone):
		return found, "", errSignedOut
	case err != nil:
		return found, "", errors.Join(errNoRedis, err)
	}
	return found, cookie.Value, nil
}

// identify finds the session of a request, and checks its access token, as the API does with
// each request. A session whose token is refused ends.
func (c *Console) identify(v *visit) error {
	found, sent, err := c.findSession(v)
	if err != nil {
		return err
	}
	reader, err := c.access.Viewer(v.r, found.Token, c.options.Readers)
	var refused *wire.Error
	if errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden) || err == nil && reader.UserID != found.User {
		if err := c.sessions.End(v.r.Context(), sent); err != nil {
			return errors.Join(errNoRedis, err)
		}
		return errSignedOut
	}
	if err != nil {
		return err
	}
	v.session, v.cookie, v.reads = found, sent, slices.Contains(c.options.Readers, found.User)
	return nil
}

// viewer lets users with a session through to a page, and others to the page on which they
// sign in.
func (c *Console) viewer(page func(*visit) error) func(*visit) error {
	return func(v *visit) error {
		err := c.identify(v)
		if errors.Is(err, errSignedOut) {
			return v.redirect(Root + "/sign-in?next=" + url.QueryEscape(v.r.URL.RequestURI()))
		}
		if err != nil {
			return err
		}
		return page(v)
	}
}

// changer lets a form of the user's own session through, if the user may change something.
func (c *Console) changer(page func(*visit) error) func(*visit) error {
	return func(v *visit) error {
		if err := c.readForm(v); err != nil {
			return err
		}
		err := c.identify(v)
		switch {
		case errors.Is(err, errSignedOut):
			return v.redirect(Root + "/sign-in?ended=1")
		case err != nil:
			return err
		case !v.session.Proves(v.r.PostForm.Get("proof")):
			return errProof
		case v.reads:
			return errReads
		}
		return page(v)
	}
}

// readForm reads a form of a page of this site.
func (c *Console) readForm(v *visit) error {
	if c.crossSite.Check(v.r) != nil {
		return errOtherSite
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if v.r.ParseForm() != nil {
		return errForm
	}
	for _, values := range v.r.PostForm {
		if slices.ContainsFunc(values, func(text string) bool { return !utf8.ValidString(text) }) {
			return errForm // a reason would be stored otherwise than it was sent
		}
	}
	return nil
}

// A signInForm is the page on which users sign in.
type signInForm struct {
	frame

	// Next is where the user wanted to go, Problem why it failed, and Said a sentence about
	// what has happened.
	Next, Problem, Said string
}

func (c *Console) signInPage(v *visit) error {
	query := v.r.URL.Query()
	form := signInForm{frame: v.frame("Sign in"), Next: localPath(query.Get("next"))}
	switch {
	case query.Has("out"):
		form.Said = "You have signed out. The session has ended in all tabs."
	case query.Has("ended"):
		form.Said = "Your session has ended, and nothing was changed. Sign in and try again."
	}
	return v.render(http.StatusOK, "sign_in", form)
}

// signIn begins a session, which is always a new one: a cookie that was there before is
// worth nothing afterwards.
func (c *Console) signIn(v *visit) error {
	if err := c.readForm(v); err != nil {
		return err
	}
	form := signInForm{frame: v.frame("Sign in"), Next: localPath(v.r.PostForm.Get("next"))}
	token := strings.TrimSpace(v.r.PostForm.Get("token"))
	if token == "" {
		form.Problem = "Enter an access token."
		return v.render(http.StatusBadRequest, "sign_in", form)
	}
	ctx := v.r.Context()
	reader, err := c.access.Viewer(v.r, token, c.options.Readers)
	var refused *wire.Error
	if errors.As(err, &refused) && refused.Status < http.StatusInternalServerError {
		form.Problem = sentence(refused.Text) + " " + nextStep(refused)
		retryAfter(v.w.Header(), refused)
		return v.render(refused.Status, "sign_in", form)
	}
	if err != nil {
		return err
	}
	if old, err := v.r.Cookie(cookieName); err == nil {
		if err := c.sessions.End(ctx, old.Value); err != nil {
			return errors.Join(errNoRedis, err)
		}
	}
	sent, begun, err := c.sessions.Begin(ctx, reader.UserID, token)
	if err != nil {
		return errors.Join(errNoRedis, err)
	}
	v.session = begun
	c.setCookie(v, sent, untilSeconds(begun.Ends))
	return v.redirect(form.Next)
}

// signOut ends the session. It need not know whether the session's access token is still
// good, so that users can sign out while the database or the homeserver is away.
func (c *Console) signOut(v *visit) error {
	if err := c.readForm(v); err != nil {
		return err
	}
	found, sent, err := c.findSession(v)
	switch {
	case errors.Is(err, errSignedOut):
		return v.redirect(Root + "/sign-in?out=1")
	case err != nil:
		return err
	case !found.Proves(v.r.PostForm.Get("proof")):
		return errProof
	}
	v.session = found // for the log
	if err := c.sessions.End(v.r.Context(), sent); err != nil {
		return errors.Join(errNoRedis, err)
	}
	c.setCookie(v, "", -1)
	return v.redirect(Root + "/sign-in?out=1")
}

// setCookie sets the session's cookie for that many seconds. Browsers take it over plain
// HTTP from this machine alone.
func (c *Console) setCookie(v *visit, value string, seconds int) {
	http.SetCookie(v.w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: seconds, Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

// localPath returns a path of the console, with its query, that a link may lead to: the
// given one, or the first page instead of any other.
func localPath(given string) string {
	u, err := url.Parse(given)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") ||
		!strings.HasPrefix(u.Path, Root+"/") || strings.ContainsAny(given, "\\\r\n") {
		return Root + "/"
	}
	return (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).String()
}
