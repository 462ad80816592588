package httpapi

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/access"
	"lethe/internal/console"
	"lethe/internal/homeserver"
	"lethe/internal/jobs"
	"lethe/internal/mas"
	"lethe/internal/messages"
	"lethe/internal/observe"
	"lethe/internal/operator"
	"lethe/internal/retention"
	"lethe/internal/spaces"
	"lethe/internal/store/admin"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/synapse"
	"lethe/internal/tasks"
)

// Options are the settings of [New].
type Options struct {
	// AccountValidity says that accounts can expire, so that Synapse's
	// account_validity table is read for each access token. Defaults to false.
	AccountValidity bool

	// Console makes the pages at [console.Root] and below, from what checks access tokens.
	// Defaults to nil, so that these paths are not found.
	Console func(*access.Control) http.Handler

	// Delegated reports whether Homeserver delegates its accounts. Then Homeserver is
	// asked for whom an access token speaks, and before that the database. Defaults to
	// nil, so that HomeserverAuth decides.
	Delegated func() bool

	// DeletePatience is the maximum time that the caller of a synchronous delete
	// waits. Defaults to 10 m.
	DeletePatience time.Duration

	// Grace is how long a purge or an asynchronous delete waits before anything is done.
	// Defaults to 0, no wait.
	Grace time.Duration

	// Health answers /healthz and /readyz. These requests have no CORS
	// headers, no log line, no timeout and no call of Observe. Defaults to nil, so
	// that the three paths are not found.
	Health http.Handler

	// Homeserver answers the requests below /_matrix and /_synapse/admin that match
	// no route. Defaults to nil, so that they are not found.
	Homeserver *homeserver.Client

	// HomeserverAuth says that Homeserver is asked for whom an access token speaks,
	// instead of the database. Defaults to false.
	HomeserverAuth bool

	// Local is the name of the admin who makes all requests, whatever their access token.
	// It is for a handler that is called in the same process, and never for one that
	// listens. Defaults to "", so that access tokens are checked.
	Local string

	// Log is the logger, which gets one line for each request. Defaults to
	// slog.Default().
	Log *slog.Logger

	// MAS is asked for whom an access token speaks, instead of the database and
	// Homeserver. It needs ServerName. Defaults to nil, which asks the others.
	MAS *mas.Client

	// Messages reads the history of rooms. Defaults to a reader of the store without
	// leases.
	Messages *messages.Messages

	// Monitor is shown to server admins at [MonitorRoot] and below, as by a read-only
	// [NewMonitor]. Defaults to nil, so that these paths are not found.
	Monitor http.Handler

	// Observe is called after each request, with the pattern that it matched. The
	// route of requests that are passed on is "passed on", that of other requests
	// without a pattern "unmatched", and an unusual method is "OTHER", so that the
	// number of label values is bounded. Defaults to nil, which is not called.
	Observe func(route, method string, status int, duration time.Duration)

	// ObservePage is called with the time that a page of a room's history took,
	// whether or not it failed. Admin says that it was for a server admin who may
	// see everything. Defaults to nil, which is not called.
	ObservePage func(admin bool, duration time.Duration)

	// Operator has further routes, for server admins. Defaults to nil, none.
	Operator *operator.Operator

	// PassTimeout is the Timeout of requests that are passed on. Those of /sync may
	// wait long. It is also that of the routes of Operator that may take long. Defaults to
	// 10 m.
	PassTimeout time.Duration

	// PurgeDelay is the pause between the shutdown and the purge of a room that is
	// deleted asynchronously. Defaults to 0, which is no pause.
	PurgeDelay time.Duration

	// Retention is the configuration that users can read, if it is enabled. Defaults
	// to nil, so that the path is not found, as in a homeserver without MSC1763.
	Retention *retention.Config

	// SeedDialect makes the API answer as the first admin tools expect: it refuses to
	// purge the history of a room that has a job already, instead of queueing the
	// purge, and the status of a running delete is "shutting_down" or "purging".
	// Defaults to false.
	SeedDialect bool

	// ServerName is the homeserver's name. Defaults to "", so that no user can create
	// a replacement room, and no user of MAS is known.
	ServerName string

	// StallTimeout is how long a client may take nothing of an answer with history. Then
	// the answer breaks off, so that its memory is free. Defaults to 10 s.
	StallTimeout time.Duration

	// StatusTTL is how long a room's deletes are listed after their end. Defaults to
	// 24 h.
	StatusTTL time.Duration

	// Synapse is told which of its caches a request has made stale. Defaults to nil, so
	// that nothing is told.
	Synapse *synapse.Synapse

	// Timeout is the maximum time of a request's handler. Reading the request may
	// take 1.5 times as long, and the whole request twice as long. Defaults to 25 s,
	// which is a little less than admin tools wait.
	Timeout time.Duration

	// TrustedProxies are the networks of the proxies whose X-Forwarded-For header is
	// believed. Defaults to none, so that wrong access tokens count for the address
	// at the other end of the connection.
	TrustedProxies []netip.Prefix

	// Tracer traces all requests but those to Health. Defaults to nil, which traces
	// nothing.
	Tracer *observe.Tracer
}

// A submitter accepts jobs: a *tasks.Client, or a fake in tests.
type submitter interface {
	SubmitPurgeHistory(ctx context.Context, purge tasks.PurgeHistory) (id string, err error)
	SubmitDeleteRoom(ctx context.Context, request tasks.DeleteRoom) (id string, err error)
}

// statuses returns the statuses of jobs: a *jobs.Board, or a fake in tests.
type statuses interface {
	Status(ctx context.Context, kind journal.Kind, id string) (jobs.Status, error)
}

// A server has the dependencies of the handlers.
type server struct {
	options         Options
	db              *postgres.DB
	journal         *journal.Journal
	holds           *journal.Holds
	queries         *admin.Queries
	homeserverTasks *scheduledtasks.Queue
	spaces          *spaces.Spaces
	access          *access.Control
	tasks           submitter
	jobs            statuses
	echo            *echo.Echo
	monitor         http.Handler // nil unless it is shown
	console         http.Handler // nil unless it is shown
	turns           *pageTurns
}

// New returns a handler that reads from db, submits jobs to a *tasks.Client and gets
// their statuses from a *jobs.Board. The handler sets the timeouts of each request. The
// [http.Server] that runs it should set DisableGeneralOptionsHandler.
func New(db *postgres.DB, client submitter, board statuses, options Options) http.Handler {
	s := newServer(db, client, board, options)
	if page := s.options.Monitor; page != nil {
		s.monitor = &monitor{server: s, page: page, readOnly: true}
	}
	if s.options.Console != nil {
		s.console = s.options.Console(s.access)
	}
	s.echo.Pre(s.serve)
	s.routes()
	return s
}

// newServer returns a server that has no routes yet.
func newServer(db *postgres.DB, client submitter, board statuses, options Options) *server {
	options.DeletePatience = cmp.Or(options.DeletePatience, 10*time.Minute)
	options.Log = cmp.Or(options.Log, slog.Default())
	options.Messages = cmp.Or(options.Messages, messages.New(db, messages.Options{Log: options.Log}))
	options.PassTimeout = cmp.Or(options.PassTimeout, 10*time.Minute)
	options.StallTimeout = cmp.Or(options.StallTimeout, 10*time.Second)
	options.StatusTTL = cmp.Or(options.StatusTTL, 24*time.Hour)
	options.Timeout = cmp.Or(options.Timeout, 25*time.Second)
	who := access.Options{
		AccountValidity: options.AccountValidity,
		MAS:             options.MAS,
		ServerName:      options.ServerName,
		TrustedProxies:  options.TrustedProxies,
		UnlimitedUsers:  options.passesUsersOn(),
	}
	if options.HomeserverAuth {
		who.Homeserver = options.Homeserver
	} else if options.Delegated != nil {
		who.Homeserver, who.Delegated = options.Homeserver, options.Delegated
	}
	return &server{
		options: options, db: db, journal: journal.New(db), holds: journal.NewHolds(db), queries: admin.New(db),
		homeserverTasks: scheduledtasks.New(db),
		spaces:          spaces.New(db, options.ServerName),
		access:          access.New(db, who), tasks: client, jobs: board, echo: echo.New(), turns: newPageTurns(),
	}
}

func (s *server) routes() {
	const v1, v2 = "/_synapse/admin/v1", "/_synapse/admin/v2"
	s.handle(http.MethodPost, v1+"/purge_history/:room_id", s.admin(s.purgeHistory))
	s.handle(http.MethodPost, v1+"/purge_history/:room_id/:event_id", s.admin(s.purgeHistoryBeforeEvent))
	s.handle(http.MethodGet, v1+"/purge_history_status/:purge_id", s.admin(s.purgeHistoryStatus))
	s.handle(http.MethodGet, v1+"/rooms", s.admin(s.roomList))
	s.handle(http.MethodGet, v1+"/rooms/:room_id", s.admin(s.roomDetails))
	s.handle(http.MethodDelete, v1+"/rooms/:room_id", s.admin(s.deleteRoomNow))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/block", s.admin(s.roomBlock))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/context/:event_id", s.adminReader(s.eventContext))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/forward_extremities", s.admin(s.forwardExtremities))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/members", s.admin(s.roomMembers))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/messages", s.adminReader(s.allMessages))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/state", s.admin(s.roomState))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/timestamp_to_event", s.admin(s.timestampToEvent))
	s.handle(http.MethodGet, v1+"/event_reports", s.admin(s.eventReportList))
	s.handle(http.MethodGet, v1+"/event_reports/:report_id", s.admin(s.eventReport))
	s.handle(http.MethodGet, v1+"/fetch_event/:event_id", s.adminReader(s.anyEvent))
	s.handle(http.MethodGet, v1+"/room/:room_id/media", s.admin(s.roomMedia))
	s.handle(http.MethodGet, v1+"/rooms/:room_id/hierarchy", s.admin(s.roomHierarchy))
	s.handle(http.MethodGet, v1+"/statistics/database/rooms", s.admin(s.largestRooms))
	for _, version := range []string{"api/v1", "r0", "v3", "unstable"} {
		s.handle(http.MethodGet, "/_matrix/client/"+version+"/rooms/:room_id/messages", s.userReader(s.messages))
	}
	for _, version := range []string{"r0", "v3"} {
		s.handle(http.MethodGet, "/_matrix/client/"+version+"/account/whoami", s.user(whoami))
	}
	if s.options.Operator != nil {
		for _, route := range s.options.Operator.Routes() {
			s.handle(route.Method, route.Pattern(), s.admin(s.patient(route)))
		}
	}
	s.handle(http.MethodGet, v1+"/scheduled_tasks", s.admin(s.scheduledTasks))
	s.handle(http.MethodGet, v1+"/server_version", s.homeserverFirst(serverVersion))
	s.handle(http.MethodGet, v2+"/users/:user_id", s.homeserverFirst(s.admin(s.userDetails)))
	s.handle(http.MethodGet, "/_synapse/admin/v3/users", s.homeserverFirst(s.admin(s.userList)))
	s.handle(http.MethodGet, "/_matrix/client/versions", s.homeserverFirst(s.versions))
	for _, version := range loginVersions {
		s.handle(http.MethodGet, "/_matrix/client/"+version+"/login", s.homeserverFirst(loginFlows))
	}
	if rules := s.options.Retention; rules != nil && rules.Enabled {
		s.handle(http.MethodGet, "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration",
			s.user(retentionConfiguration(*rules)))
	}
	if s.options.Homeserver == nil {
		// A running homeserver has these in its caches, so it must write them itself.
		s.handle(http.MethodPut, v1+"/rooms/:room_id/block", s.admin(s.blockRoom))
		s.handle(http.MethodDelete, v1+"/rooms/:room_id/forward_extremities", s.admin(s.deleteForwardExtremities))
		for _, version := range loginVersions {
			s.handle(http.MethodPost, "/_matrix/client/"+version+"/login", refuseLogin)
		}
	}
	s.handle(http.MethodDelete, v2+"/rooms/:room_id", s.admin(s.deleteRoom))
	s.handle(http.MethodGet, v2+"/rooms/:room_id/delete_status", s.admin(s.deletesOfRoom))
	s.handle(http.MethodGet, v2+"/rooms/delete_status/:delete_id", s.admin(s.deleteStatus))
}

// handle registers a route as Synapse matches it. A segment may be empty, but has no
// slash. HEAD is GET without the body.
func (s *server) handle(method, pattern string, handler echo.HandlerFunc) {
	methods := []string{method}
	if method == http.MethodGet {
		methods = append(methods, http.MethodHead)
	}
	s.echo.Match(methods, pattern, handler)
	if parent, last := path.Split(pattern); strings.HasPrefix(last, ":") {
		// In echo the last segment is never empty, and matches the whole rest of the
		// path, including slashes, unless another route continues after it. So there is
		// a route that continues with a byte that is in no path.
		s.echo.Match(methods, parent, handler)
		s.echo.RouteNotFound(pattern+"/\x00", echo.NotFoundHandler)
	}
}

// ServeHTTP implements [http.Handler].
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.isHealth(r):
		s.options.Health.ServeHTTP(w, r)
	case s.monitor != nil && (r.URL.Path == MonitorRoot || strings.HasPrefix(r.URL.Path, MonitorRoot+"/")):
		s.monitor.ServeHTTP(w, r)
	case s.console != nil && console.Serves(r.URL.Path):
		s.console.ServeHTTP(w, r)
	default:
		s.echo.ServeHTTP(w, withRawPath(r))
	}
}

// isHealth reports whether a request is for [Options].Health.
func (s *server) isHealth(r *http.Request) bool {
	switch r.URL.EscapedPath() { // as it was sent, like a proxy compares it
	case "/healthz", "/readyz":
		return s.options.Health != nil
	}
	return false
}
