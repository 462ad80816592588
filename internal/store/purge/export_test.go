package purge

import (
	"context"
	"errors"

	"lethe/internal/store/journal"
)

// HistoryBy is a History that goes by the catalog.
func (p *Purger) HistoryBy(request HistoryRequest, catalog Catalog) *History {
	return &History{HistoryRequest: request, purger: p, catalog: catalog}
}

// CatalogVersion is the version of the catalog.
func (p *Purger) CatalogVersion(ctx context.Context) (string, error) { return p.catalogVersion(ctx) }

// Steps of the collecting of state groups.
const (
	SortStateGroups   = sortStateGroups
	DeleteStateGroups = deleteStateGroups
	SettleStateGroups = settleStateGroups
)

// FoundPlaces selects, in the batch, the events of which the condition holds, and
// returns in how many places of each table a search finds rows of them.
func (p *Purger) FoundPlaces(ctx context.Context, transaction *journal.Batch, condition string) (map[string]int64, error) {
	b := &batch{Batch: transaction, purger: p}
	if err := theEvents.empty(ctx, b); err != nil {
		return nil, err
	}
	tag, err := b.Exec(ctx, `INSERT INTO lethe_selected
		SELECT event_id, topological_ordering, stream_ordering, true, ctid FROM events WHERE `+condition)
	if err != nil {
		return nil, err
	}
	found, err := b.search(ctx, selection{deletable: tag.RowsAffected()}, historyDeletes.most)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.close() }()
	places := map[string]int64{}
	for _, r := range historyDeletes.most {
		l, ok := found.next(r.table)
		if !ok {
			return nil, errors.New("the search failed at " + r.table)
		}
		places[r.table] = l.len()
	}
	return places, nil
}
