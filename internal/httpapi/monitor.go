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

	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// MonitorRoot is the path of [Options].Monitor.
const MonitorRoot = "/asynqmon"

var (
	errReadOnly  = wire.New(http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "asynqmon is read-only here")
	errMethod    = wire.New(http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "Unrecognized request")
	errOtherSite = wire.Forbidden("The request comes from the page of another site")
)

// NewMonitor returns a handler that shows the page to server admins only. It checks
// their access tokens as [New] does. A browser may send the token as the password of
// HTTP basic authentication, with any user. If readOnly is set, only GET and HEAD
// requests reach the page. The handler uses the options that decide who is an admin,
// and Health, Log, Observe and Timeout.
func NewMonitor(db *postgres.DB, page http.Handler, readOnly bool, options Options) http.Handler {
	s := newServer(db, nil, nil, options)
	return &monitor{server: s, page: page, readOnly: readOnly}
}

// A monitor lets server admins through to a page that another project serves.
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
	// Unlike the API, it does not allow requests from other sites' pages.
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Request-Id", requestID)
	c := m.echo.NewContext(r, w)
	c.SetPath("asynqmon")
	defer setTimeout(c, r, begun, m.options.Timeout)()
	err := recoverPanic(func(c echo.Context) error { return m.show(c, requestID) }, c)
	_ = m.report(c, requestID, begun, err) // it is logged
	if errors.Is(err, http.ErrAbortHandler) {
		panic(http.ErrAbortHandler)
	}
}

// show shows the page to a server admin.
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
	case isAmbiguousPath(r):
		return echo.ErrNotFound
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		if err := m.checkWrite(r); err != nil {
			if errors.Is(err, errReadOnly) {
				header.Set(echo.HeaderAllow, "GET, HEAD")
			}
			return err
		}
		m.options.Log.InfoContext(r.Context(), "asynqmon changes something",
			slog.String("requester", reader.UserID), slog.String("method", r.Method), slog.String("request_id", requestID))
	}
	r.Body = http.MaxBytesReader(c.Response(), r.Body, wire.MaxBody)
	m.page.ServeHTTP(c.Response(), r)
	return nil
}

// checkWrite returns the refusal of a request that may not change anything.
func (m *monitor) checkWrite(r *http.Request) error {
	switch {
	case m.readOnly:
		return errReadOnly
	case r.Method != http.MethodPost && r.Method != http.MethodDelete:
		return errMethod
	case m.crossSite.Check(r) != nil:
		// A browser that knows the password sends it with each request here, whichever
		// page makes the request.
		return errOtherSite
	}
	return nil
}

// isAmbiguousPath reports whether the page could read the path differently than this
// package does.
func isAmbiguousPath(r *http.Request) bool {
	sent := strings.ToLower(r.URL.EscapedPath())
	for _, piece := range []string{"%2e", "%2f", "%5c", "\\"} {
		if strings.Contains(sent, piece) {
			return true
		}
	}
	clean := path.Clean(r.URL.Path)
	return r.URL.Path != clean && (clean == "/" || r.URL.Path != clean+"/")
}
