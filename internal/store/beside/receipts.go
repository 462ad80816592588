package beside

import (
	"context"
	"fmt"

	"lethe/internal/store/postgres"
)

// PlaceReceipts gives a place in the stream to receipts for purged events, and returns
// their number. A homeserver that still has such an event in its memory writes the
// receipt without a place, and from then on cannot count notifications of any room. The
// place is just below the room's history: the user has read what is purged. It looks only
// at rooms whose purges wait for their mappings.
func PlaceReceipts(ctx context.Context, db *postgres.DB) (int64, error) {
	tag, err := db.Exec(ctx, `
		UPDATE receipts_linearized r
		SET event_stream_ordering = coalesce((
			SELECT min(e.stream_ordering) - 1 FROM events e WHERE e.room_id = r.room_id AND NOT e.outlier), 0)
		WHERE r.room_id = ANY (ARRAY(SELECT DISTINCT d.room_id FROM lethe.delayed_mappings d))
		  AND r.event_stream_ordering IS NULL
		  AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = r.event_id)`)
	if err != nil {
		return 0, fmt.Errorf("place the receipts for purged events: %w", err)
	}
	return tag.RowsAffected(), nil
}
