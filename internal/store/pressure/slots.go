package pressure

import (
	"context"
	"errors"
	"fmt"

	"lethe/internal/store/postgres"
)

// readSlots reads which replication slot will be invalidated first. Slots have a limit only
// with max_slot_wal_keep_size. One that is invalidated already has none.
func (r *Reader) readSlots(ctx context.Context, look *Look) error {
	// The settings are in MB. The server keeps what the greater of them says.
	err := r.db.ReadRow(ctx, []any{&look.SlotName, &look.SlotBytes, &look.SlotKeep}, `
		SELECT slot_name::text, greatest(safe_wal_size, 0), (
			SELECT max(s.setting::bigint) * 1048576::bigint FROM pg_settings s WHERE s.name IN ('max_slot_wal_keep_size', 'wal_keep_size'))
		FROM pg_replication_slots
		WHERE safe_wal_size IS NOT NULL AND wal_status <> 'lost'
		ORDER BY safe_wal_size LIMIT 1`)
	if err != nil && !errors.Is(err, postgres.ErrNotFound) {
		return fmt.Errorf("slots: %w", err)
	}
	return nil
}
