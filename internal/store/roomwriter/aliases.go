package roomwriter

import (
	"context"
	"fmt"

	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// MoveAliases makes all aliases of the batch's room lead to another room, with the
// given creator, and returns them in order. A second call finds no alias.
func MoveAliases(ctx context.Context, b *journal.Batch, to, creator string) ([]string, error) {
	var aliases []string
	if err := b.QueryRow(ctx, `
		WITH moved AS (
			UPDATE room_aliases SET room_id = $2, creator = $3 WHERE room_id = $1 RETURNING room_alias
		)
		SELECT ARRAY(SELECT room_alias FROM moved ORDER BY room_alias)`, b.Room(), to, creator).Scan(&aliases); err != nil {
		return nil, fmt.Errorf("move the room's aliases: %w", err)
	}
	return aliases, nil
}

// LocalAliases returns this server's aliases that lead to the room, in order.
func LocalAliases(ctx context.Context, db *postgres.DB, room string) ([]string, error) {
	aliases, err := postgres.ReadAll(ctx, db, pgx.RowTo[string], `
		SELECT room_alias FROM room_aliases WHERE room_id = $1 ORDER BY room_alias`, room)
	if err != nil {
		return nil, fmt.Errorf("list the room's local aliases: %w", err)
	}
	return aliases, nil
}
