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
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// eventRows are the rows t of a table in which most events have some.
type eventRows struct {
	table string

	// byRoom says that the index by which they are found begins with room_id.
	byRoom bool

	// sql deletes the rows for which %s holds. It may mention $1, the room. If it
	// does more than that, it answers with how many they were.
	sql string
}

// ofDeletable are the rows of a table that belong to deletable events.
func ofDeletable(table string) eventRows {
	return eventRows{table: table, sql: `DELETE FROM ` + table + ` t WHERE %s`}
}

// byID deletes the rows that an index finds by the ids of events.
func (r eventRows) byID() step {
	which := `t.event_id = ` + theDeletable
	if r.byRoom {
		which = `t.room_id = $1 AND ` + which
	}
	return step{"delete from " + r.table, fmt.Sprintf(r.sql, which)}
}

// find tells the table, and where its rows are that belong to the events $1. That the
// array is selected first hides its elements from the planner, which would weigh each
// of them.
func (r eventRows) find() string {
	sql := `SELECT '` + r.table + `', coalesce(array_agg(t.ctid), '{}') FROM ` + r.table + ` t WHERE t.event_id = ANY ((SELECT $1)::text[])`
	if r.byRoom {
		sql += ` AND t.room_id = $2`
	}
	return sql
}

// deleteInPlace deletes the rows of a table that are in these places, and returns
// how many it found there.
func (b *batch) deleteInPlace(ctx context.Context, r eventRows, places list) (int64, error) {
	conn, err := b.Conn(ctx)
	if err != nil {
		return 0, err
	}
	parameters := []parameter{places.of(pgtype.TIDArrayOID)}
	if strings.Contains(r.sql, "$1") {
		parameters = []parameter{text(b.Room()), places.of(pgtype.TIDArrayOID)}
	}
	values, tag, err := execRaw(ctx, conn, fmt.Sprintf(r.sql, fmt.Sprintf(`t.ctid = ANY ((SELECT $%d)::tid[])`, len(parameters))), parameters...)
	switch {
	case err != nil:
		return 0, err
	case tag.Delete():
		return tag.RowsAffected(), nil
	}
	return int64(binary.BigEndian.Uint64(values[0])), nil
}

// A list is an array as the server writes and reads it. What one connection has
// answered is told to another one as it is.
type list []byte

// len is how many elements the list has.
func (l list) len() int64 {
	if len(l) < 16 || binary.BigEndian.Uint32(l) == 0 { // its dimensions
		return 0
	}
	return int64(binary.BigEndian.Uint32(l[12:]))
}

func (l list) of(oid uint32) parameter { return parameter{l, oid} }

// A parameter is a value in the server's own format.
type parameter struct {
	value []byte
	oid   uint32
}

func text(s string) parameter { return parameter{[]byte(s), pgtype.TextOID} }

// execRaw runs a statement that answers with one row, or none, of values in the
// server's own format.
func execRaw(ctx context.Context, conn *pgx.Conn, sql string, parameters ...parameter) ([][]byte, pgconn.CommandTag, error) {
	values, oids := make([][]byte, len(parameters)), make([]uint32, len(parameters))
	for i, p := range parameters {
		values[i], oids[i] = p.value, p.oid
	}
	const binaryFormat = 1
	result := conn.PgConn().ExecParams(ctx, sql, values, oids, []int16{binaryFormat}, []int16{binaryFormat}).Read()
	if result.Err != nil || len(result.Rows) == 0 {
		return nil, result.CommandTag, result.Err
	}
	return result.Rows[0], result.CommandTag, nil
}

// A search finds the places of rows on a connection of its own, while the batch does
// something else. Most of what a delete costs is to find the rows: the indexes by
// event_id have no order that a batch could follow.
//
// What it finds is as good as what the batch would find itself if the events are
// locked when it begins. It keeps its snapshot until it is closed: that long the
// server lets nothing else come to a place that the search has seen. A row that
// somebody changes meanwhile may leave its place, though, so whoever deletes in
// places must count.
type search struct {
	places chan found // of each table in its turn; closed early if it failed
	over   bool       // nothing more is taken from it
	end    context.CancelFunc
	ended  chan struct{}
	err    error // once it has ended
}

// A found is where rows of a table are.
type found struct {
	table  string
	places list
}

const (
	// maxSearched bounds the events that a search is given: their ids go through
	// our memory, and so do the places of their rows.
	maxSearched = 50_000

	// searchWait bounds a search's waits for a connection and for a lock, and the
	// batch's wait for what is found. Longer waits would not end: somebody who wants
	// a table for himself lets nobody pass, and waits for the batch.
	searchWait = 2 * time.Second

	// searchEndTime bounds the end of a search's transaction.
	searchEndTime = 5 * time.Second
)

// search begins a search for the rows of the tables that belong to the selected
// events. It is nil if there is no connection to spare.
func (b *batch) search(ctx context.Context, selected selection, tables []eventRows) (*search, error) {
	if pool := b.purger.db.Connections(); selected.events() > maxSearched || 2*pool.InUse > pool.Max {
		return nil, nil
	}
	conn, err := b.Conn(ctx)
	if err != nil {
		return nil, err
	}
	ids, _, err := execRaw(ctx, conn, `SELECT coalesce(array_agg(event_id), '{}') FROM lethe_selected WHERE deletable`)
	if err != nil {
		return nil, fmt.Errorf("read the selection: %w", err)
	}
	f := &search{places: make(chan found, len(tables)), ended: make(chan struct{})}
	ctx, f.end = context.WithCancel(ctx)
	room := b.Room()
	go func() {
		defer close(f.ended)
		defer close(f.places)
		f.err = b.purger.searchFor(ctx, tables, f.places, list(ids[0]).of(pgtype.TextArrayOID), text(room))
	}()
	return f, nil
}

// searchFor sends the places of the rows of each table, found in one snapshot on a
// connection of its own. It keeps the snapshot until the context ends; an error says
// that it did not.
func (p *Purger) searchFor(ctx context.Context, tables []eventRows, places chan<- found, parameters ...parameter) (err error) {
	defer func() {
		var pg *pgconn.PgError
		if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.As(err, &pg) && pg.Code == "57014") {
			err = nil // it was cancelled at its end
		}
	}()
	acquire, cancel := context.WithTimeout(ctx, searchWait)
	defer cancel()
	conn, err := p.db.Acquire(acquire)
	if err != nil {
		return err
	}
	defer conn.Release() // which closes a connection that has not ended its transaction
	var pipeline pgx.Batch
	pipeline.Queue(postgres.BeginSnapshot)
	pipeline.Queue(gather.sql)
	pipeline.Queue(`
		SELECT set_config('jit', 'off', true),
		       set_config('lock_timeout', $1, true),
		       set_config('statement_timeout', $2, true),
		       set_config('idle_in_transaction_session_timeout', $2, true)`, postgres.Milliseconds(searchWait), postgres.Milliseconds(journal.StatementTime))
	if err := conn.SendBatch(ctx, &pipeline).Close(); err != nil {
		return err
	}
	// All in one cursor, so that the ids are sent once, and each table is searched
	// when its places are fetched.
	if _, _, err := execRaw(ctx, conn.Conn(), `
		DECLARE found BINARY NO SCROLL CURSOR FOR `+strings.Join(each(tables, eventRows.find), " UNION ALL "), parameters...); err != nil {
		return err
	}
	for range tables {
		row, _, err := execRaw(ctx, conn.Conn(), `FETCH found`)
		if err != nil {
			return err
		}
		places <- found{string(row[0]), row[1]}
	}
	<-ctx.Done()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), searchEndTime)
	defer cancel()
	_, err = conn.Exec(end, `ROLLBACK`)
	return err
}

// next returns the places of the rows of a table, if they were found. The tables are
// those of the search, in the same order.
func (f *search) next(table string) (places list, ok bool) {
	if f == nil || f.over {
		return nil, false
	}
	patience := time.NewTimer(searchWait)
	defer patience.Stop()
	select {
	case found := <-f.places:
		f.over = found.table != table // nothing, once it has failed
		return found.places, !f.over
	case <-patience.C:
		f.over = true
		return nil, false
	}
}

// close ends the search, if there is one. An error says that it had lost its
// snapshot before: what was done in the places that it found may be wrong. A second
// call returns the same.
func (f *search) close() error {
	if f == nil {
		return nil
	}
	f.end()
	<-f.ended
	return f.err
}
