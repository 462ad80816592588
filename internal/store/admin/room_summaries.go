package admin

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"

	"github.com/jackc/pgx/v5"
)

// A RoomSummary is what a list of a space's rooms says of a room. Texts are nil where
// the room has none.
type RoomSummary struct {
	ID string

	Version, Name, Topic, CanonicalAlias, Avatar *string

	// JoinRule, HistoryVisibility and GuestAccess are the values of the state events of
	// these names, Encryption is the algorithm, and Type is such as m.space.
	JoinRule, HistoryVisibility, GuestAccess, Encryption, Type *string

	// JoinedMembers is nil if the homeserver has not counted the members.
	JoinedMembers *int64
}

// RoomSummaries returns the summaries of the rooms in which the server has a joined user,
// by their ids. The caller must bound the number of ids.
func (q *Queries) RoomSummaries(ctx context.Context, serverName string, rooms []string) (map[string]RoomSummary, error) {
	if rooms = postgres.OnlyStorable(rooms); len(rooms) == 0 || !postgres.Storable(serverName) {
		return nil, nil
	}
	// A user's server is what follows the first colon. Its name may have another.
	list, err := postgres.ReadAll(ctx, q.db, pgx.RowToStructByPos[RoomSummary], `
		SELECT r.room_id, r.room_version, s.name, s.topic, s.canonical_alias, s.avatar,
		       s.join_rules, s.history_visibility, s.guest_access, s.encryption, s.room_type, c.joined_members
		FROM rooms r
		LEFT JOIN room_stats_state s USING (room_id)
		LEFT JOIN room_stats_current c USING (room_id)
		WHERE r.room_id = ANY ($1::text[]) AND EXISTS (
			SELECT FROM current_state_events m
			WHERE m.room_id = r.room_id AND m.type = 'm.room.member' AND m.membership = 'join'
			  AND substr(m.state_key, strpos(m.state_key, ':') + 1) = $2)`, rooms, serverName)
	if err != nil {
		return nil, fmt.Errorf("read the summaries of rooms: %w", err)
	}
	summaries := make(map[string]RoomSummary, len(list))
	for _, summary := range list {
		summaries[summary.ID] = summary
	}
	return summaries, nil
}
