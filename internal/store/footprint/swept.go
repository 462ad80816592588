package footprint

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/purge"
)

// A Swept is a room that a sweep would purge or delete.
type Swept struct {
	Room string

	// Before is the lowest depth that stays. Deletes do not use it.
	Before int64
}

// purgedEvents counts for each of the rooms $1 the events below its depth in $4 that a
// sweep's purge deletes: local ones go too, so $2 is true.
const purgedEvents = `
	SELECT of.deleted, of.checksum
	FROM unnest($1::text[], $4::bigint[]) WITH ORDINALITY AS c (room_id, before, number)
	CROSS JOIN LATERAL (
		SELECT count(*) AS deleted, coalesce(sum(hashtextextended(e.event_id, 0::bigint)), 0)::text AS checksum
		FROM events e LEFT JOIN state_events s ON s.event_id = e.event_id
		WHERE e.room_id = c.room_id AND e.topological_ordering < c.before AND ` + purge.Deletable + `
	) of
	ORDER BY c.number`

// deletedEvents counts the events of each of the rooms $1.
const deletedEvents = `
	SELECT of.deleted, of.checksum
	FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS c (room_id, number)
	CROSS JOIN LATERAL (
		SELECT count(*) AS deleted, coalesce(sum(e.stream_ordering), 0)::text AS checksum FROM events e WHERE e.room_id = c.room_id
	) of
	ORDER BY c.number`

// PurgedEvents returns, for each of the rooms, the events that a sweep's purge would
// delete. Of each only Deleted and Checksum are set.
func (s *Snapshot) PurgedEvents(ctx context.Context, swept []Swept) ([]Events, error) {
	rooms, depths := make([]string, len(swept)), make([]int64, len(swept))
	for i, room := range swept {
		rooms[i], depths[i] = room.Room, room.Before
	}
	return s.sweptEvents(ctx, purgedEvents, rooms, true, s.options.ServerName, depths)
}

// DeletedEvents is [Snapshot.PurgedEvents] for a sweep's deletes.
func (s *Snapshot) DeletedEvents(ctx context.Context, rooms []string) ([]Events, error) {
	return s.sweptEvents(ctx, deletedEvents, rooms)
}

func (s *Snapshot) sweptEvents(ctx context.Context, sql string, args ...any) (all []Events, err error) {
	if err := s.setLocal(ctx, byIndex); err != nil {
		return nil, err
	}
	rows, err := s.tx.Query(ctx, sql, args...)
	if err == nil {
		all, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e Events, err error) {
			return e, row.Scan(&e.Deleted, &e.Checksum)
		})
	}
	if err != nil {
		return nil, fmt.Errorf("count the events of a sweep: %w", err)
	}
	return all, nil
}
