package purge

import (
	"context"
	"errors"
	"slices"
	"time"

	"lethe/internal/store/journal"
)

// HistoryBy returns a History that uses the catalog.
func (p *Purger) HistoryBy(request HistoryRequest, catalog Catalog) *History {
	return &History{HistoryRequest: request, purger: p, catalog: catalog}
}

// The steps in collecting state groups.
const (
	ClassifyStateGroups = classifyStateGroups
	DeleteStateGroups   = deleteStateGroups
	DecideSharedGroups  = decideSharedGroups
)

// FoundPlaces selects the events that meet the condition, and returns in how many
// places of each table a search finds rows of them.
func (p *Purger) FoundPlaces(ctx context.Context, transaction *journal.Batch, condition string) (map[string]int64, error) {
	b := &batch{Batch: transaction, purger: p}
	if err := b.empty(ctx, eventsTable); err != nil {
		return nil, err
	}
	tag, err := b.Exec(ctx, `INSERT INTO pg_temp.lethe_selected
		SELECT event_id, topological_ordering, stream_ordering, true, ctid FROM events WHERE `+condition)
	if err != nil {
		return nil, err
	}
	found, err := b.search(ctx, selection{deletable: tag.RowsAffected()}, historyDeletes.common)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.close() }()
	places := map[string]int64{}
	for _, r := range historyDeletes.common {
		l, ok := found.next(r.table)
		if !ok {
			return nil, errors.New("the search failed at " + r.table)
		}
		places[r.table] = l.places.Len()
	}
	return places, nil
}

// DeleteInPlaceOf deletes the event at the place of another, and returns how many events
// it has deleted.
func (p *Purger) DeleteInPlaceOf(ctx context.Context, transaction *journal.Batch, event, other string) (int64, error) {
	b := &batch{Batch: transaction, purger: p}
	if err := b.empty(ctx, eventsTable); err != nil {
		return 0, err
	}
	if _, err := b.Exec(ctx, `INSERT INTO pg_temp.lethe_selected
		SELECT e.event_id, e.topological_ordering, e.stream_ordering, true, o.ctid
		FROM events e, events o WHERE e.event_id = $1 AND o.event_id = $2`, event, other); err != nil {
		return 0, err
	}
	return b.run(ctx, []statement{deleteEventsInPlace})
}

// SearchedTables returns the tables of which a second connection finds the rows.
func SearchedTables() []string {
	return each(historyDeletes.common, func(r eventRows) string { return r.table })
}

// DeletedTables returns the names of the tables from which a room's delete deletes rows
// by room_id or event_id, without Lethe's own.
func DeletedTables() []string {
	names := slices.Clone(roomByEvent)
	for _, t := range roomTables {
		if t.name != candidatesTable {
			names = append(names, t.name)
		}
	}
	return names
}

// CatalogIsReadAfter reports whether a catalog that was read so long ago, and whose version
// is the same, is read again.
func (p *Purger) CatalogIsReadAfter(ctx context.Context, age time.Duration) (again bool, err error) {
	cache := catalogCache{read: func(context.Context) (Catalog, error) {
		again = true
		return Catalog{}, nil
	}}
	if cache.version, err = p.version.Get(ctx); err != nil {
		return false, err
	}
	cache.readAt = time.Now().Add(-age)
	_, err = cache.get(ctx, p)
	return again, err
}

// CorruptIndexes is the error that names indexes.
func CorruptIndexes(indexes ...string) error { return corruptIndexes("delete rows", indexes) }
