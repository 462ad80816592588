package pressure

import (
	"context"
	"fmt"
)

// readArchive counts the WAL segments that wait to be archived: those with a file that ends
// in .ready. A role that is not in pg_monitor may not list these files.
func (r *Reader) readArchive(ctx context.Context, look *Look) error {
	var may bool
	if err := r.db.ReadRow(ctx, []any{&may}, `
		SELECT current_setting('archive_mode') <> 'off' AND NOT pg_is_in_recovery()
		       AND has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE')`); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if !may {
		return nil
	}
	if err := r.db.ReadRow(ctx, []any{&look.ArchiveSegments}, `
		SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'`); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}
