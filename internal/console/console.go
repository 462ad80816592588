package console

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"lethe/internal/access"
	"lethe/internal/console/session"
	"lethe/internal/observe"
	"lethe/internal/operator"
	"lethe/internal/store/audit"
)

// Root is the path of the console. Its pages are below it.
const Root = "/_lethe/console"

// Options are the settings of [New].
type Options struct {
	// Log is the logger, which gets one line for each request. Defaults to slog.Default().
	Log *slog.Logger

	// Observe is called after each request with the pattern that it matched, "console" if it
	// matched none. Defaults to nil, which is not called.
	Observe func(route, method string, status int, duration time.Duration)

	// Readers are the ids of the users who may look and change nothing, whether or not they
	// are server admins. Defaults to none.
	Readers []string

	// Timeout is the maximum time of a request, except one that follows a page. Defaults to
	// 25 s.
	Timeout time.Duration
}

// A Console serves the pages. It is safe for concurrent use.
type Console struct {
	options   Options
	access    *access.Control
	api       *operator.Operator
	sessions  *session.Store
	mux       *http.ServeMux
	crossSite *http.CrossOriginProtection
	followers followers
	overview  shared[overview]
}

// New returns a Console. Access tokens are checked by the control, and all that its pages
// show and do is done by the API.
func New(control *access.Control, api *operator.Operator, sessions *session.Store, options Options) *Console {
	options.Log = cmp.Or(options.Log, slog.Default())
	options.Timeout = cmp.Or(options.Timeout, 25*time.Second)
	c := &Console{
		options: options, access: control, api: api, sessions: sessions, mux: http.NewServeMux(),
		crossSite: http.NewCrossOriginProtection(), followers: followers{byUser: map[string]int{}},
	}
	c.routes()
	return c
}

// Serves reports whether a path is the console's.
func Serves(path string) bool { return path == Root || strings.HasPrefix(path, Root+"/") }

func (c *Console) routes() {
	c.handle("GET", "", func(v *visit) error { return v.redirect(Root + "/") })
	c.handle("GET", "/static/{name}", c.asset)
	c.handle("GET", "/sign-in", c.signInPage)
	c.handle("POST", "/sign-in", c.signIn)
	c.handle("POST", "/sign-out", c.signOut)
	c.handle("GET", "/{$}", c.viewer(c.overviewPage))
	c.handle("GET", "/live", c.follower(c.overviewLive))
	c.handle("GET", "/jobs", c.viewer(c.jobsPage))
	c.handle("GET", "/jobs/{job}", c.viewer(c.jobPage))
	c.handle("GET", "/jobs/{job}/live", c.follower(c.jobLive))
	c.handle("GET", "/jobs/{job}/{verb}", c.viewer(c.verbPage))
	c.handle("POST", "/jobs/{job}/{verb}", c.changer(c.doVerb))
	c.handle("GET", "/rooms", c.viewer(patient(c.roomsPage)))
	c.handle("GET", "/room", c.viewer(patient(c.roomPage)))
	c.handle("GET", "/room/plan", c.viewer(patient(c.planPage)))
	c.handle("GET", "/room/block", c.viewer(patient(c.blockPage)))
	c.handle("POST", "/room/block", c.changer(c.block))
	c.handle("POST", "/room/apply", c.changer(patient(c.apply)))
	c.handle("GET", "/schedules", c.viewer(c.schedulesPage))
	c.handle("GET", "/schedules/run", c.viewer(c.runPage))
	c.handle("POST", "/schedules/run", c.changer(c.run))
	c.handle("GET", "/audit", c.viewer(c.auditPage))
	c.handle("GET", "/holds", c.viewer(c.holdsPage))
	c.handle("GET", "/holds/place", c.viewer(c.placePage))
	c.handle("POST", "/holds/place", c.changer(c.place))
	c.handle("GET", "/holds/lift", c.viewer(c.liftPage))
	c.handle("POST", "/holds/lift", c.changer(c.lift))
	c.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.serve(w, r, "console", func(v *visit) error { return c.elsewhere(v) })
	})
}

// handle registers a page below [Root].
func (c *Console) handle(method, path string, page func(*visit) error) {
	c.mux.HandleFunc(method+" "+Root+path, func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, Root+path, page) })
}

// maxRequestURI is the maximum length of a path with its query in bytes. Pages repeat parts of
// it.
const maxRequestURI = 8 << 10

// ServeHTTP implements [http.Handler].
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case len(r.URL.RequestURI()) > maxRequestURI:
		c.refuseAll(w, r, errLong)
	case r.Method == http.MethodConnect || path.Clean(r.URL.Path) != strings.TrimSuffix(r.URL.Path, "/"):
		// The mux would lead to another path, by an answer that has none of our headers.
		c.refuseAll(w, r, errNoPage)
	case fetchedElsewhere(r.Header):
		c.refuseAll(w, r, errOtherSite)
	default:
		c.mux.ServeHTTP(w, r)
	}
}

// fetchedElsewhere reports whether a page of another origin has made the request, and not by
// a link or a form. For a page on another host of the same site the browser sends the session
// along. It learns nothing, but it could plan jobs and follow pages.
func fetchedElsewhere(h http.Header) bool {
	switch h.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return h.Get("Sec-Fetch-Mode") != "navigate" || h.Get("Sec-Fetch-Dest") != "document"
}

// refuseAll refuses a request for whatever page.
func (c *Console) refuseAll(w http.ResponseWriter, r *http.Request, refused error) {
	c.serve(w, r, "console", func(*visit) error { return refused })
}

// A visit is a request, with who makes it.
type visit struct {
	w *answer
	r *http.Request

	// sent is the context of the request without the timeout of a page.
	sent context.Context

	// id names the request in the log, and nonce the page's own script and style.
	id, nonce string

	// session is the user's session, and cookie what the browser sends for it. They are zero
	// on pages that need no session.
	session session.Session
	cookie  string

	// ends are called after the answer.
	ends []context.CancelFunc

	// reads says that the user may change nothing.
	reads bool
}

// redirect sends the browser to another page of the console, which it gets.
func (v *visit) redirect(path string) error {
	http.Redirect(v.w, v.r, path, http.StatusSeeOther)
	return nil
}

// serve answers a request with a page.
func (c *Console) serve(w http.ResponseWriter, r *http.Request, route string, page func(*visit) error) {
	begun := time.Now()
	sent := audit.Through(r.Context(), audit.Console)
	ctx, cancel := context.WithTimeout(sent, c.options.Timeout)
	v := &visit{ends: []context.CancelFunc{cancel}, w: &answer{ResponseWriter: w}, sent: sent, id: rand.Text(), nonce: rand.Text()}
	defer func() {
		for _, end := range v.ends {
			end()
		}
	}()
	v.r = r.WithContext(observe.About(ctx, slog.String("request_id", v.id)))
	// A context ends no reads and writes.
	v.w.readUntil(begun.Add(c.options.Timeout * 3 / 2))
	_ = http.NewResponseController(w).SetWriteDeadline(begun.Add(c.options.Timeout * 2))
	writeHeaders(w.Header(), v)
	err := recovered(page, v)
	if err != nil {
		err = c.refuse(v, err)
	}
	c.report(v, route, time.Since(begun), err)
}

// report writes the log's line of a request.
func (c *Console) report(v *visit, route string, took time.Duration, err error) {
	method := v.r.Method
	if method != http.MethodGet && method != http.MethodHead && method != http.MethodPost {
		method = "OTHER"
	}
	level, attrs := slog.LevelInfo, []slog.Attr{
		slog.String("method", method), slog.String("route", route), slog.Int("status", v.w.sentStatus()),
		slog.Duration("duration", took), slog.String("request_id", v.id),
	}
	if v.session.User != "" && method == http.MethodPost {
		attrs = append(attrs, slog.String("requester", v.session.User))
	}
	if err != nil {
		level, attrs = slog.LevelError, append(attrs, slog.Any("error", err))
	}
	c.options.Log.LogAttrs(context.WithoutCancel(v.r.Context()), level, "request", attrs...)
	if c.options.Observe != nil {
		c.options.Observe(route, method, v.w.sentStatus(), took)
	}
}

// writeHeaders sets the headers of all answers. Scripts and styles are those with the nonce
// of the page, so that nothing runs that another page of the same server has.
func writeHeaders(h http.Header, v *visit) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'nonce-"+v.nonce+"'; style-src 'nonce-"+v.nonce+
		"'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "same-origin") // with none, a form would be sent with the origin null
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Request-Id", v.id)
}

// recovered calls the page and turns a panic into an error.
func recovered(page func(*visit) error, v *visit) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return page(v)
}

// An answer remembers its status.
type answer struct {
	http.ResponseWriter
	status int

	// readBy is the deadline of reads.
	readBy time.Time
}

// readUntil sets the deadline of reads. Only connections in tests have none.
func (a *answer) readUntil(deadline time.Time) {
	a.readBy = deadline
	_ = http.NewResponseController(a.ResponseWriter).SetReadDeadline(deadline)
}

// WriteHeader implements [http.ResponseWriter].
func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
		if !time.Now().Before(a.readBy) {
			// The server has ended the context of the connection, and with it those of all
			// requests that would follow on it.
			a.Header().Set("Connection", "close")
		}
	}
	a.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (a *answer) Write(text []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	return a.ResponseWriter.Write(text)
}

// Unwrap lets [http.ResponseController] find the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) sentStatus() int { return cmp.Or(a.status, http.StatusOK) }
