package httpapi

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/store"
	"lethe/internal/wire"
)

// MonitorRoot is the path of [Options].Monitor.
const MonitorRoot = "/asynqmon"

var (
	errReadOnly = &wire.Error{
		Status: http.StatusMethodNotAllowed, Code: "M_UNRECOGNIZED", Text: "asynqmon is read-only here",
	}
	errMethod = &wire.Error{
		Status: http.StatusMethodNotAllowed, Code: "M_UNRECOGNIZED", Text: "Unrecognized request",
	}
	errOtherSite = &wire.Error{
		Status: http.StatusForbidden, Code: "M_FORBIDDEN", Text: "The request comes from the page of another site",
	}
)

// NewMonitor returns a handler that shows the page to server admins, whom it asks
// for an access token as [New] does; a browser may send it as the password of HTTP
// basic authentication, for any user. With readOnly nothing but GET and HEAD gets
// to the page. Of the options those count that say who is an admin, and Health,
// Log, Observe, Timeout and TrustedProxies.
func NewMonitor(db *store.Store, page http.Handler, readOnly bool, options Options) http.Handler {
	s := newServer(db, nil, nil, options)
	return &monitor{server: s, page: page, readOnly: readOnly}
}

// A monitor lets server admins through to a page that is not ours.
type monitor struct {
	*server
	page      http.Handler
	readOnly  bool
	crossSite http.CrossOriginProtection
}

// ServeHTTP implements [http.Handler].
func (m *monitor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m.isHealth(r) {
		m.options.Health.ServeHTTP(w, r)
		return
	}
	begun := time.Now()
	requestID := rand.Text()
	// Unlike the API, this is for no page of another site.
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Request-Id", requestID)
	c := m.echo.NewContext(r, w)
	c.SetPath("asynqmon")
	defer limit(c, r, begun, m.options.Timeout)()
	err := guard(func(c echo.Context) error { return m.show(c, requestID) }, c)
	cut := errors.Is(err, http.ErrAbortHandler)
	if err != nil {
		err = refuse(c, err)
	}
	m.report(c, requestID, time.Since(begun), err)
	if cut {
		panic(http.ErrAbortHandler)
	}
}

// show shows the page to whom it may be shown.
func (m *monitor) show(c echo.Context, requestID string) error {
	r, header := c.Request(), c.Response().Header()
	reader, err := m.access.BrowserAdmin(r)
	var refused *wire.Error
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusUnauthorized:
		header.Set(echo.HeaderWWWAuthenticate, `Basic realm="Lethe: any user, and the access token of a server admin", charset="UTF-8"`)
		return err
	case err != nil:
		return err
	case isTrick(r):
		return echo.ErrNotFound
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if err := m.mayChange(r); err != nil {
			if errors.Is(err, errReadOnly) {
				header.Set(echo.HeaderAllow, "GET, HEAD")
			}
			return err
		}
		m.options.Log.InfoContext(r.Context(), "asynqmon changes something",
			slog.String("requester", reader.UserID), slog.String("method", r.Method), slog.String("request_id", requestID))
	}
	r.Body = http.MaxBytesReader(c.Response(), r.Body, maxBody)
	m.page.ServeHTTP(c.Response(), r)
	return nil
}

// mayChange reports why a request that changes something is not let through.
func (m *monitor) mayChange(r *http.Request) error {
	switch {
	case m.readOnly:
		return errReadOnly
	case r.Method != http.MethodPost && r.Method != http.MethodDelete:
		return errMethod
	case m.crossSite.Check(r) != nil:
		// A browser that has asked for the password sends it with everything that any
		// page has it send here.
		return errOtherSite
	}
	return nil
}

// isTrick reports whether a path could be another one to whoever looks at it
// next.
func isTrick(r *http.Request) bool {
	sent := strings.ToLower(r.URL.EscapedPath())
	for _, piece := range []string{"%2e", "%2f", "%5c", "\\"} {
		if strings.Contains(sent, piece) {
			return true
		}
	}
	clean := path.Clean(r.URL.Path)
	return r.URL.Path != clean && (clean == "/" || r.URL.Path != clean+"/")
}
