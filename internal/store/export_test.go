package store

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
)

// BeginSnapshot is how a snapshot begins, and SQL a query's statement, so that tests
// can look at its plan.
const BeginSnapshot = beginPicture + ";" + setPicture

func (q PageQuery) SQL() (string, []any) { return q.sql(nil) }

// Setting is what a setting of the server is in the snapshot.
func (s *Snapshot) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.tx.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value)
	return value, err
}

// FoundPlaces selects the events of which the condition holds, and returns in how
// many places of each table a search finds rows of them.
func (s *Store) FoundPlaces(ctx context.Context, room, condition string) (map[string]int64, error) {
	places := map[string]int64{}
	return places, s.inTransaction(ctx, func(tx pgx.Tx) error {
		if err := theEvents.empty(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO lethe_selected
			SELECT event_id, topological_ordering, stream_ordering, true, ctid FROM events WHERE `+condition)
		if err != nil {
			return err
		}
		found, err := s.search(ctx, tx, room, selection{deletable: tag.RowsAffected()}, historyDeletes.most)
		if err != nil {
			return err
		}
		defer func() { _ = found.close() }()
		for _, r := range historyDeletes.most {
			l, ok := found.next(r.table)
			if !ok {
				return errors.New("the search failed at " + r.table)
			}
			places[r.table] = l.len()
		}
		return nil
	})
}

// WithMigrator calls do with what migrates one set in a database where the schema
// lethe is.
func WithMigrator(ctx context.Context, url, set string, do func(*goose.Provider) error) error {
	return withDatabase(ctx, url, func(_ context.Context, db *sql.DB) error {
		provider, err := migrator(db, set)
		if err != nil {
			return err
		}
		return do(provider)
	})
}
