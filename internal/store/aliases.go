package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MoveAliases makes all aliases of the batch's room lead to another one, as if
// the creator had made them. Checkpoint gets them, in their order. When they have
// been moved, a second call finds none.
func (s *Store) MoveAliases(ctx context.Context, batch Batch, to, creator string, checkpoint func(aliases []string) any) error {
	err := s.inBatch(ctx, batch, func(tx pgx.Tx) (any, error) {
		var aliases []string
		if err := tx.QueryRow(ctx, `
			WITH moved AS (
				UPDATE room_aliases SET room_id = $2, creator = $3 WHERE room_id = $1 RETURNING room_alias
			)
			SELECT ARRAY(SELECT room_alias FROM moved ORDER BY room_alias)`, batch.Room, to, creator).Scan(&aliases); err != nil {
			return nil, err
		}
		return checkpoint(aliases), nil
	})
	if err != nil {
		return fmt.Errorf("move the room's aliases: %w", err)
	}
	return nil
}

// LocalAliases returns this server's aliases that lead to the room, in order.
func (s *Store) LocalAliases(ctx context.Context, room string) ([]string, error) {
	var aliases []string
	err := patiently(ctx, func() error {
		rows, err := s.pool.Query(ctx, `
			SELECT room_alias FROM room_aliases WHERE room_id = $1 ORDER BY room_alias`, room)
		if err != nil {
			return err
		}
		aliases, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the room's local aliases: %w", err)
	}
	return aliases, nil
}
