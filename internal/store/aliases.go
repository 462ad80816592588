package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

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
