package messages

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"lethe/internal/lock"
	"lethe/internal/matrix"
	"lethe/internal/retention"
	"lethe/internal/store/postgres"
)

// ErrForbidden is returned when the reader may not read the room, or there is no
// such room.
var ErrForbidden = errors.New("not in the room, and the room cannot be previewed")

// ErrNotAsked is returned by a [Backfill] that had a reason to ask nobody.
var ErrNotAsked = errors.New("nobody was asked for history")

// Options are what [New] can be told.
type Options struct {
	// Backfill gets history that this server does not have. Defaults to nil:
	// nobody does.
	Backfill Backfill

	// DepartedSeeLater lets users who have left a room read forwards beyond their
	// leave, as Synapse does. Defaults to false.
	DepartedSeeLater bool

	// Log gets what goes wrong without failing a page. Defaults to slog.Default().
	Log *slog.Logger

	// Retention says what is too old to be shown to users. Defaults to the zero
	// Config: nothing is.
	Retention retention.Config

	// Rooms admits readers to rooms beside the writers that purge them. Defaults
	// to nil: they read without a lease.
	Rooms *lock.Readers
}

// Backfill gets history of rooms from other servers.
type Backfill interface {
	// Backfill asks for the events before the given place of a room, as the
	// reader, and returns when what came is in the database, or why nothing came:
	// [ErrNotAsked] if nobody was to be asked.
	Backfill(ctx context.Context, room string, reader Reader, before matrix.PageToken, limit int) error
}

// A Messages answers readers. It is safe for concurrent use.
type Messages struct {
	options Options
	db      *postgres.DB
}

// New returns a Messages that reads from db.
func New(db *postgres.DB, options Options) *Messages {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	return &Messages{options: options, db: db}
}

// A Reader is for whom a page is made.
type Reader struct {
	UserID string

	// DeviceID is the device of the reader's access token, "" if it has none, and
	// TokenID the token's own id, 0 if nobody knows.
	DeviceID string
	TokenID  int64

	// Guest and AppService say what kind of account it is.
	Guest, AppService bool

	// Admin says that it is a server admin.
	Admin bool

	// AccessToken is passed on to the homeserver when that is asked for more
	// history. It is never logged.
	AccessToken string
}

// A Request asks for a page.
type Request struct {
	Room   string
	Reader Reader

	// All says that the reader is a server admin who reads any room, and all of
	// it: no membership is asked for, and nothing is hidden.
	All bool

	// Backwards reads from new to old.
	Backwards bool

	// From and To are where to begin and to end. Defaults to nil: the room's end,
	// seen from where one begins, and no bound.
	From, To *matrix.PageToken

	// Limit is the most rows of a page, from 0 to 1000. It has no default.
	Limit int

	Filter Filter

	// Raw gives events as servers get them.
	Raw bool
}

// A Page is what a Request gets.
type Page struct {
	Chunk []json.RawMessage

	// Start is the token that the page began with, End the one of the next page;
	// nil if there is none.
	Start matrix.PageToken
	End   *matrix.PageToken

	// State is the members that a lazily loading client needs for the chunk.
	State []json.RawMessage
}

// now is when the page is made; ages and retention go by it.
func now() time.Time { return time.Now() }
