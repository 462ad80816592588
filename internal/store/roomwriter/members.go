package roomwriter

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A LocalMember is a user of this server who is joined to a room, is invited or has
// knocked.
type LocalMember struct {
	UserID string `json:"user_id"`

	// Membership is "join", "invite" or "knock".
	Membership string `json:"membership"`
}

// LocalMembers returns up to limit of the room's local members in the order of their
// ids, from the first after the given id. Users who were banned or have left do not
// count.
func LocalMembers(ctx context.Context, db *postgres.DB, room, after string, limit int) ([]LocalMember, error) {
	members, err := postgres.ReadAll(ctx, db, pgx.RowToStructByPos[LocalMember], `
		SELECT user_id, membership FROM local_current_membership
		WHERE room_id = $1 AND user_id > $2 AND membership IN ('join', 'invite', 'knock')
		ORDER BY user_id LIMIT $3`, room, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list the room's local members: %w", err)
	}
	return members, nil
}
