package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/access"
	"lethe/internal/homeserver"
	"lethe/internal/jobs"
	"lethe/internal/messages"
	"lethe/internal/observe"
	"lethe/internal/retention"
	"lethe/internal/store"
	"lethe/internal/tasks"
)

// Options are what [New] can be told.
type Options struct {
	// AccountValidity says that accounts expire, so that Synapse's
	// account_validity table is asked before an access token is believed.
	// Defaults to false.
	AccountValidity bool

	// DeletePatience bounds how long the caller of a synchronous delete waits.
	// Defaults to 10 m.
	DeletePatience time.Duration

	// Health answers /healthz, /readyz and /metrics. Nothing that is promised
	// of the API holds there: no CORS headers, no log, no time limit, no
	// Observe. Defaults to nil, which leaves the three unknown.
	Health http.Handler

	// Homeserver gets the requests for /_matrix and /_synapse/admin that are
	// none of ours, and their callers its answers. Defaults to nil, which leaves
	// those unknown.
	Homeserver *homeserver.Client

	// HomeserverAuth has Homeserver say for whom an access token speaks, instead
	// of the database. Defaults to false.
	HomeserverAuth bool

	// Log gets one line for each request. Defaults to slog.Default().
	Log *slog.Logger

	// Messages reads the history of rooms. Defaults to one of the store that has
	// no leases.
	Messages *messages.Messages

	// Monitor is shown to server admins at [MonitorRoot] and below, as by
	// [NewMonitor], read-only. Defaults to nil, which leaves these unknown.
	Monitor http.Handler

	// Observe is told of each request when it has been answered, with the
	// pattern that it matched. All that were passed on have the route "passed on",
	// all other paths that match none "unmatched", and all unusual methods the method "OTHER", so the number of
	// label values is bounded. Defaults to nil, which tells nobody.
	Observe func(route, method string, status int, duration time.Duration)

	// ObservePage is told how long it took to make a page of a room's history, or
	// to fail, and whether it was for a server admin who sees all of it. Defaults
	// to nil, which tells nobody.
	ObservePage func(admin bool, duration time.Duration)

	// PassTimeout is the Timeout of a request that is passed on, which may wait
	// for news. Defaults to 10 m.
	PassTimeout time.Duration

	// PurgeDelay is the pause between the shutdown and the purge of a room that is
	// deleted asynchronously. Defaults to 0, none.
	PurgeDelay time.Duration

	// Retention is told to users who ask for it, if it is enabled. Defaults to nil:
	// there is nobody to ask, as in a homeserver without that experiment.
	Retention *retention.Config

	// SeedDialect refuses a history purge of a room that has a job already, as
	// the first admin tools expect, and says "shutting_down" or "purging" for a
	// delete that is under way; without it the purge is queued. Defaults to false.
	SeedDialect bool

	// ServerName is the homeserver's name. Defaults to "": then nobody is a user
	// of ours who could make a room.
	ServerName string

	// StatusTTL is for how long the deletes of a room that have ended are listed.
	// Defaults to 24 h.
	StatusTTL time.Duration

	// Timeout bounds a request: as long again for reading it and for writing the
	// answer. Defaults to 25 s, a little less than admin tools wait.
	Timeout time.Duration

	// TrustedProxies are those whose X-Forwarded-For says where a request comes
	// from, by which wrong access tokens are counted. Defaults to none: it comes
	// from the other end of its connection.
	TrustedProxies []netip.Prefix
	// Tracer traces all requests but those to Health. Defaults to nil, no traces.
	Tracer *observe.Tracer
}

// submitter is what the API needs of *tasks.Client.
type submitter interface {
	SubmitPurgeHistory(ctx context.Context, purge tasks.PurgeHistory) (id string, err error)
	SubmitDeleteRoom(ctx context.Context, request tasks.DeleteRoom) (id string, err error)
}

// statuses is what the API needs of *jobs.Board.
type statuses interface {
	Status(ctx context.Context, kind jobs.Kind, id string) (jobs.Status, error)
}

// server holds what the handlers need.
type server struct {
	options Options
	store   *store.Store
	access  *access.Control
	tasks   submitter
	jobs    statuses
	echo    *echo.Echo
	monitor http.Handler // nil unless it is shown
}

// New returns a handler that reads from db, submits to a *tasks.Client and asks
// a *jobs.Board. It limits each request by itself; the server that it is put
// into leaves "OPTIONS *" to it.
func New(db *store.Store, client submitter, board statuses, options Options) http.Handler {
	s := newServer(db, client, board, options)
	if page := s.options.Monitor; page != nil {
		s.monitor = &monitor{server: s, page: page, readOnly: true}
	}
	s.echo.Pre(s.serve)
	s.routes()
	return s
}

// newServer returns a server that has no routes yet.
func newServer(db *store.Store, client submitter, board statuses, options Options) *server {
	if options.DeletePatience == 0 {
		options.DeletePatience = 10 * time.Minute
	}
	if options.Log == nil {
		options.Log = slog.Default()
	}
	if options.Messages == nil {
		options.Messages = messages.New(db, messages.Options{Log: options.Log})
	}
	if options.PassTimeout == 0 {
		options.PassTimeout = 10 * time.Minute
	}
	if options.StatusTTL == 0 {
		options.StatusTTL = 24 * time.Hour
	}
	if options.Timeout == 0 {
		options.Timeout = 25 * time.Second
	}
	who := access.Options{
		AccountValidity: options.AccountValidity,
		TrustedProxies:  options.TrustedProxies,
		UnlimitedUsers:  options.passesUsersOn(),
	}
	if options.HomeserverAuth {
		who.Homeserver = options.Homeserver
	}
	return &server{options: options, store: db, access: access.New(db, who), tasks: client, jobs: board, echo: echo.New()}
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
	for _, version := range []string{"api/v1", "r0", "v3", "unstable"} {
		s.handle(http.MethodGet, "/_matrix/client/"+version+"/rooms/:room_id/messages", s.userReader(s.messages))
	}
	for _, version := range []string{"r0", "v3"} {
		s.handle(http.MethodGet, "/_matrix/client/"+version+"/account/whoami", s.user(whoami))
	}
	const holds = "/_lethe/v1/holds"
	s.handle(http.MethodGet, holds, s.admin(s.holdList))
	s.handle(http.MethodGet, holds+"/:room_id", s.admin(s.roomHold))
	s.handle(http.MethodPut, holds+"/:room_id", s.admin(s.placeHold))
	s.handle(http.MethodDelete, holds+"/:room_id", s.admin(s.releaseHold))
	s.handle(http.MethodGet, v1+"/scheduled_tasks", s.admin(s.scheduledTasks))
	s.handle(http.MethodGet, v1+"/server_version", serverVersion)
	if rules := s.options.Retention; rules != nil && rules.Enabled {
		s.handle(http.MethodGet, "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration",
			s.user(retentionConfiguration(*rules)))
	}
	if s.options.Homeserver == nil {
		// A homeserver that runs is asked to write these itself: it has them in its
		// caches.
		s.handle(http.MethodPut, v1+"/rooms/:room_id/block", s.admin(s.blockRoom))
		s.handle(http.MethodDelete, v1+"/rooms/:room_id/forward_extremities", s.admin(s.deleteForwardExtremities))
	}
	s.handle(http.MethodDelete, v2+"/rooms/:room_id", s.admin(s.deleteRoom))
	s.handle(http.MethodGet, v2+"/rooms/:room_id/delete_status", s.admin(s.deletesOfRoom))
	s.handle(http.MethodGet, v2+"/rooms/delete_status/:delete_id", s.admin(s.deleteStatus))
}

// handle registers a route as Synapse matches it: any segment may be empty, no
// segment holds a slash, and HEAD is GET without the body.
func (s *server) handle(method, pattern string, handler echo.HandlerFunc) {
	methods := []string{method}
	if method == http.MethodGet {
		methods = append(methods, http.MethodHead)
	}
	s.echo.Match(methods, pattern, handler)
	if parent, last := path.Split(pattern); strings.HasPrefix(last, ":") {
		// In echo the last segment is never empty, and takes all that is left,
		// slashes too, unless something may follow it. So something may that no
		// path can hold.
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
	default:
		s.echo.ServeHTTP(w, asSent(r))
	}
}

// isHealth reports whether a request is for [Options].Health.
func (s *server) isHealth(r *http.Request) bool {
	switch r.URL.Path {
	case "/healthz", "/readyz", "/metrics":
		return s.options.Health != nil
	}
	return false
}
