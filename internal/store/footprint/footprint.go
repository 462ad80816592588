package footprint

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
)

// A Figure is how many rows there are in a table.
type Figure struct {
	// Rows is the number of rows.
	Rows int64 `json:"rows"`

	// EstimatedBytes is the space that the rows take, with their share of the table's
	// indexes. It is an estimate even if Exact is true: the number of rows times the
	// average width of a row in all rooms. Space that is empty already does not count.
	EstimatedBytes int64 `json:"estimated_bytes"`

	// Exact says that Rows was counted. Otherwise it is an estimate.
	Exact bool `json:"exact"`
}

// Options are the options of [Queries].
type Options struct {
	// Counted is the number of events in the database up to which they are counted for
	// a list of rooms. More are taken from the server's sample. Defaults to 20,000,000.
	Counted int

	// ExactTime bounds each statement of an exact answer. Defaults to 1 hour.
	ExactTime time.Duration

	// Few is the number of events, or of rows of a table, up to which rows are counted
	// in every answer. More are estimated. Defaults to 10,000.
	Few int

	// ServerName is this server's name. It has no default.
	ServerName string

	// Time bounds each statement of any other answer. Defaults to 20 seconds.
	Time time.Duration
}

// Queries reads footprints. It is safe for concurrent use.
type Queries struct {
	db      *postgres.DB
	purger  *purge.Purger
	options Options
}

// New returns Queries on the database. The purger says from which tables purges and
// deletes take rows.
func New(db *postgres.DB, purger *purge.Purger, options Options) *Queries {
	options.Counted = cmp.Or(options.Counted, 20_000_000)
	options.ExactTime = cmp.Or(options.ExactTime, time.Hour)
	options.Few = cmp.Or(options.Few, 10_000)
	options.Time = cmp.Or(options.Time, 20*time.Second)
	return &Queries{db: db, purger: purger, options: options}
}

// A Snapshot answers questions about the database at one moment. It serves one
// goroutine, and only until the function that got it returns.
type Snapshot struct {
	tx      pgx.Tx
	options Options
	exact   bool
	catalog purge.Catalog
	tables  map[string]table
}

// History calls read with a snapshot for questions about a purge of history. With
// exact, all of its figures are counted. It fails with [purge.ErrCatalog] if a purge
// would. An error of read is returned as it is.
func (q *Queries) History(ctx context.Context, exact bool, read func(context.Context, *Snapshot) error) error {
	catalog, err := q.purger.HistoryCatalog(ctx)
	if err != nil {
		return err
	}
	return q.read(ctx, exact, catalog, read)
}

// Delete is [Queries.History] for a room's delete.
func (q *Queries) Delete(ctx context.Context, exact bool, read func(context.Context, *Snapshot) error) error {
	catalog, err := q.purger.RoomCatalog(ctx)
	if err != nil {
		return err
	}
	return q.read(ctx, exact, catalog, read)
}

// read calls do with a snapshot.
func (q *Queries) read(ctx context.Context, exact bool, catalog purge.Catalog, do func(context.Context, *Snapshot) error) error {
	limit := q.options.Time
	if exact {
		limit = q.options.ExactTime
	}
	var conn *poolConn
	if err := postgres.RetryRead(ctx, func() (err error) {
		conn, err = begin(ctx, q.db, limit)
		return err
	}); err != nil {
		return fmt.Errorf("begin to read footprints: %w", err)
	}
	defer conn.end(ctx)
	s := &Snapshot{tx: conn.tx, options: q.options, exact: exact, catalog: catalog}
	if err := s.readTables(ctx); err != nil {
		return fmt.Errorf("read the sizes of tables: %w", err)
	}
	return do(ctx, s)
}
