package migrate

import (
	"context"
	"database/sql"

	"github.com/pressly/goose/v3"
)

// WithMigrator calls do with what migrates one set in a database where the schema
// lethe is.
func WithMigrator(ctx context.Context, url, set string, do func(*goose.Provider) error) error {
	return withDatabase(ctx, url, func(_ context.Context, db *sql.DB) error {
		provider, err := migrator(db, set)
		if err != nil {
			return err
		}
		return do(provider)
	})
}
