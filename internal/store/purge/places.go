package purge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// eventRows are the rows, called t in its SQL, of a table in which most events have
// rows.
type eventRows struct {
	table string

	// byRoom says that the index that finds the rows begins with room_id.
	byRoom bool

	// sql deletes the rows for which the first %s holds. It counts rows as a [checked]
	// statement does, with the second %s as condition, and may mention $1, the room.
	// Defaults to a plain DELETE.
	sql string
}

// deleteByID deletes the rows of the deletable events, by index.
func (r eventRows) deleteByID() statement {
	which, meant := `t.event_id = `+anyDeletableID, deletableRow
	if r.byRoom {
		which, meant = `t.room_id = $1 AND `+which, `t.room_id = $1 AND `+meant
	}
	if r.sql == "" {
		return checked("delete from "+r.table, `DELETE FROM `+r.table+` t WHERE `+which, deletableRow).of(r.table)
	}
	return statement{"delete from " + r.table, fmt.Sprintf(r.sql, which, meant), r.table, true}
}

// find returns the query for the table's name, the places of the rows that belong to
// the events $1, and the number of rows that the index should not have found. The
// subquery around the array hides its elements from the planner, which would consider
// each of them. Without it, and outside WHERE, the server hashes the array, from
// PostgreSQL 14.
func (r eventRows) find() string {
	sql := `
		SELECT '` + r.table + `', coalesce(pg_catalog.array_agg(t.ctid), '{}'), count(*) FILTER (WHERE (t.event_id = ANY ($1::text[])) IS NOT TRUE)
		FROM ` + r.table + ` t WHERE t.event_id = ANY ((SELECT $1)::text[])`
	if r.byRoom {
		sql += ` AND t.room_id = $2`
	}
	return sql
}

// deleteInPlace deletes the rows of a table at these places, and returns the number
// of rows that were there. It compares nothing: the search has compared each row with
// what it searched for, and as long as it keeps its snapshot, no other row comes into
// the place of one.
func (b *batch) deleteInPlace(ctx context.Context, r eventRows, places postgres.RawArray) (int64, error) {
	conn, err := b.Conn(ctx)
	if err != nil {
		return 0, err
	}
	const which = `t.ctid = ANY ((SELECT $%d)::tid[])`
	if r.sql == "" {
		_, rows, err := postgres.ExecRaw(ctx, conn, `DELETE FROM `+r.table+` t WHERE `+fmt.Sprintf(which, 1), places.Of(pgtype.TIDArrayOID))
		return rows, err
	}
	counts, _, err := postgres.ExecRaw(ctx, conn, fmt.Sprintf(r.sql, fmt.Sprintf(which, 2), `true`),
		postgres.RawText(b.Room()), places.Of(pgtype.TIDArrayOID))
	switch {
	case err != nil:
		return 0, err
	case binary.BigEndian.Uint64(counts[1]) > 0:
		return 0, b.corrupt(ctx, nil, r.deleteByID(), b.args(r.deleteByID()))
	}
	return int64(binary.BigEndian.Uint64(counts[0])), nil
}

// A search finds the places of rows on a connection of its own, while the batch does
// something else. Finding the rows is most of the cost of a delete: the indexes by
// event_id have no order that a batch could follow.
//
// Its result is as good as the batch's own if the events are locked before it
// begins. It keeps its snapshot until it is closed, and for that time the server
// puts no other row into a place that the search has seen. But a row that another
// transaction changes meanwhile may move, so a caller that deletes by places must
// count the rows.
type search struct {
	places chan tablePlaces // one for each table in order; closed early after a failure
	over   bool             // next returns nothing more
	end    context.CancelFunc
	ended  chan struct{}
	err    error // set before ended is closed
}

// tablePlaces are the places of rows of a table.
type tablePlaces struct {
	table  string
	places postgres.RawArray
	wrong  bool // an index has found rows that it should not have
}

const (
	// maxSearched bounds the number of events of a search: their ids pass through this
	// process's memory, and so do the places of their rows.
	maxSearched = 50_000

	// searchWait bounds a search's waits for a connection and for a lock, and the
	// batch's wait for its results. A longer wait would be a deadlock: a transaction
	// that wants to lock a whole table blocks the search, and itself waits for the
	// batch.
	searchWait = 2 * time.Second

	// searchEndTime bounds the end of a search's transaction.
	searchEndTime = 5 * time.Second
)

// search begins a search for the rows of the tables that belong to the selected
// events. It returns nil if no connection is free.
func (b *batch) search(ctx context.Context, selected selection, tables []eventRows) (*search, error) {
	if pool := b.purger.db.Connections(); selected.events() > maxSearched || 2*pool.InUse > pool.Max {
		return nil, nil
	}
	conn, err := b.Conn(ctx)
	if err != nil {
		return nil, err
	}
	ids, _, err := postgres.ExecRaw(ctx, conn, `SELECT coalesce(pg_catalog.array_agg(event_id), '{}') FROM pg_temp.lethe_selected WHERE deletable`)
	if err != nil {
		return nil, fmt.Errorf("read the selection: %w", err)
	}
	s := &search{places: make(chan tablePlaces, len(tables)), ended: make(chan struct{})}
	ctx, s.end = context.WithCancel(ctx)
	room := b.Room()
	go func() {
		defer close(s.ended)
		defer close(s.places)
		s.err = b.purger.searchFor(ctx, tables, s.places, postgres.RawArray(ids[0]).Of(pgtype.TextArrayOID), postgres.RawText(room))
	}()
	return s, nil
}

// searchFor sends the places of the rows of each table, found in one snapshot on a
// connection of its own. It keeps the snapshot until the context ends. An error says
// that the snapshot was lost earlier.
func (p *Purger) searchFor(ctx context.Context, tables []eventRows, places chan<- tablePlaces, parameters ...postgres.RawValue) (err error) {
	defer func() {
		if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || postgres.HasCode(err, "57014")) {
			err = nil // close has cancelled the search
		}
	}()
	acquire, cancel := context.WithTimeout(ctx, searchWait)
	defer cancel()
	conn, err := p.db.Acquire(acquire)
	if err != nil {
		return err
	}
	defer conn.Release() // closes a connection whose transaction has not ended
	var pipeline pgx.Batch
	pipeline.Queue(postgres.BeginSnapshot)
	pipeline.Queue(planBitmapScans.sql)
	pipeline.Queue(`
		SELECT set_config('jit', 'off', true),
		       set_config('lock_timeout', $1, true),
		       set_config('statement_timeout', $2, true),
		       set_config('idle_in_transaction_session_timeout', $2, true)`, postgres.Milliseconds(searchWait), postgres.Milliseconds(journal.StatementTime))
	if err := conn.SendBatch(ctx, &pipeline).Close(); err != nil {
		return err
	}
	// One cursor for all tables, so that the ids are sent once, and each table is
	// searched when its row is fetched.
	if _, _, err := postgres.ExecRaw(ctx, conn.Conn(), `
		DECLARE found BINARY NO SCROLL CURSOR FOR `+strings.Join(each(tables, eventRows.find), " UNION ALL "), parameters...); err != nil {
		return err
	}
	for range tables {
		row, _, err := postgres.ExecRaw(ctx, conn.Conn(), `FETCH found`)
		if err != nil {
			return err
		}
		places <- tablePlaces{string(row[0]), row[1], binary.BigEndian.Uint64(row[2]) > 0}
	}
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), searchEndTime)
	defer cancel()
	_, err = conn.Exec(end, `ROLLBACK`)
	return err
}

// next returns the places of the rows of a table, if they were found. Call it for
// the tables of the search in the same order.
func (s *search) next(table string) (found tablePlaces, ok bool) {
	if s == nil || s.over {
		return tablePlaces{}, false
	}
	timeout := time.NewTimer(searchWait)
	defer timeout.Stop()
	select {
	case found = <-s.places:
		s.over = found.table != table // a zero value, if the search has failed
		return found, !s.over
	case <-timeout.C:
		s.over = true
		return tablePlaces{}, false
	}
}

// close ends the search, if there is one. An error says that the search had lost its
// snapshot before: deletes at the places that it found may be wrong. A second call
// returns the same.
func (s *search) close() error {
	if s == nil {
		return nil
	}
	s.end()
	<-s.ended
	return s.err
}
