package messages

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"lethe/internal/lock"
	"lethe/internal/matrix"
	"lethe/internal/retention"
	"lethe/internal/store/postgres"
	"lethe/internal/store/rowcache"
	"lethe/internal/store/timeline"
)

// ErrForbidden is returned when the reader may not read the room, or the room does not
// exist.
var ErrForbidden = errors.New("not in the room, and the room cannot be previewed")

// ErrNotAsked is returned by a [Backfill] that has not asked for history.
var ErrNotAsked = errors.New("history was not asked for")

// Options are the settings of [New].
type Options struct {
	// Backfill gets history that this server does not have. Defaults to nil, so that
	// pages have only the history that is there.
	Backfill Backfill

	// Budget is the memory that the pages may take together until they are released.
	// Defaults to nil, so that pages are not bounded together.
	Budget *Budget

	// CacheBytes is the memory that is kept of the texts of events and of the states of
	// state groups, in bytes. Pages are the same without it. Defaults to 0, so that every
	// page reads all from the database.
	CacheBytes int

	// DepartedSeeLater lets users who have left a room read events after their leave
	// event when they page forwards, as Synapse does. Defaults to false.
	DepartedSeeLater bool

	// FilterTime bounds a statement of the database that looks for the events of a user's
	// page by a filter. A filter that selects few events reads the whole room. Defaults to
	// 0, the bound of every statement, 20 s.
	FilterTime time.Duration

	// Log is the logger of errors that do not fail a page. Defaults to slog.Default().
	Log *slog.Logger

	// MaxPageBytes is the size that ends a page, in bytes of the JSON of its events and
	// its state. A single larger event has a page of its own. Defaults to 4 MiB.
	MaxPageBytes int

	// Retention decides which events are too old to be shown to users. Defaults to the
	// zero Config, which hides nothing.
	Retention retention.Config

	// Rooms gives readers leases, so that they do not read a room during a batch of a
	// purge. Defaults to nil, so that they read without a lease.
	Rooms *lock.Readers
}

// Backfill gets history of rooms from other servers.
type Backfill interface {
	// Backfill asks, as the reader, for the events before the given position of a room.
	// It returns when the events are in the database. The error is [ErrNotAsked] if it
	// has not asked.
	Backfill(ctx context.Context, room string, reader Reader, before matrix.PageToken, limit int) error
}

// A Messages makes pages for readers. It is safe for concurrent use.
type Messages struct {
	options Options
	db      *postgres.DB
	cache   *timeline.Cache
	piece   bounds // of a piece of a page
}

// New returns a Messages that reads from db.
func New(db *postgres.DB, options Options) *Messages {
	options.Log = cmp.Or(options.Log, slog.Default())
	options.MaxPageBytes = cmp.Or(options.MaxPageBytes, 4<<20)
	cache := timeline.NewCache(timeline.CacheOptions{Bytes: options.CacheBytes, Prepare: prepare})
	return &Messages{options: options, db: db, cache: cache, piece: bounds{bytes: pieceBytes, rows: pieceRows}}
}

// CacheStats returns the numbers of the caches of events and of states.
func (m *Messages) CacheStats() (events, states rowcache.Stats) { return m.cache.Stats() }

// A Reader is the user for whom a page is made.
type Reader struct {
	// UserID is the user's Matrix id.
	UserID string

	// DeviceID is the device of the reader's access token, "" if it has none. TokenID is
	// the token's own id, 0 if it is not known.
	DeviceID string
	TokenID  int64

	// Guest says that the reader is a guest, and AppService that an application service
	// speaks for the reader.
	Guest, AppService bool

	// Admin says that the reader is a server admin.
	Admin bool

	// AccessToken is sent to the homeserver to ask it for more history. It is never
	// logged.
	AccessToken string
}

// A Request asks for a page.
type Request struct {
	// Room is the id of the room, and Reader the user who reads it.
	Room   string
	Reader Reader

	// All says that the reader is a server admin who may read every room. The page then
	// requires no membership and hides nothing. Defaults to false.
	All bool

	// Backwards reads from new to old. Defaults to false.
	Backwards bool

	// From is the token at which the page begins, and To the token at which it ends.
	// From defaults to the end of the room at which the direction begins, and To to the
	// other end.
	From, To *matrix.PageToken

	// Limit is the maximum number of events on the page, from 0 to 1000. It has no
	// default.
	Limit int

	// Filter selects events. Defaults to the zero Filter, which selects all.
	Filter Filter

	// Raw returns events as servers get them. Defaults to false.
	Raw bool

	// anonymous says that events are written as for an unknown reader: see [Format].
	anonymous bool
}

// ignorer returns the user whose ignored users do not count, "" if nothing is hidden.
func (r *Request) ignorer() string {
	if r.All {
		return ""
	}
	return r.Reader.UserID
}

// A Page is the answer to a Request.
type Page struct {
	// Chunk are the events.
	Chunk []json.RawMessage

	// Start is the token at which the page begins. End is the token of the next page,
	// nil if this is the last one.
	Start matrix.PageToken
	End   *matrix.PageToken

	// State are the memberships that a lazily loading client needs for the chunk.
	State []json.RawMessage

	share *share // nil for no page
}

// Release gives the memory of the page back to the budget. The caller calls it when the
// page is written, and does not use the page afterwards. A second call does nothing.
func (p *Page) Release() {
	if p.share != nil {
		p.share.resize(0)
	}
}

// now returns the time from which ages and retention are computed.
func now() time.Time { return time.Now() }
