package roomgen

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// device is the id of the device of every generated local user.
const device = "DEMO"

// Account creates a user with a device and an access token that does not expire. If
// the user exists, Account sets whether the user is an admin and adds the token. A
// second call changes nothing. A token of another user is an error.
func Account(ctx context.Context, db Database, userID, accessToken string, admin bool) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if err := lock(ctx, tx); err != nil {
			return err
		}
		if err := insertUsers(ctx, tx, []string{userID}); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE users SET admin = $2::boolean::int WHERE name = $1`, userID, admin); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO access_tokens (id, user_id, device_id, token, used)
			SELECT coalesce(max(id), 0) + 1, $1, $2, $3, false FROM access_tokens
			HAVING NOT coalesce(bool_or(token = $3 AND user_id = $1), false)`, userID, device, accessToken)
		return err
	})
	if err != nil {
		return fmt.Errorf("make the account %s: %w", userID, err)
	}
	return nil
}

// insertUsers creates the users that do not exist, and their devices.
func insertUsers(ctx context.Context, tx pgx.Tx, ids []string) error {
	if _, err := tx.Exec(ctx, `
		INSERT INTO users (name, creation_ts, approved, shadow_banned)
		SELECT id, extract(epoch FROM now())::bigint, true, false FROM unnest($1::text[]) AS id
		ON CONFLICT DO NOTHING`, ids); err != nil {
		return fmt.Errorf("insert users: %w", err)
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO devices (user_id, device_id, display_name)
		SELECT id, $2, 'made up' FROM unnest($1::text[]) AS id
		ON CONFLICT DO NOTHING`, ids, device); err != nil {
		return fmt.Errorf("insert devices: %w", err)
	}
	return nil
}

// lock waits until no other transaction of this package runs, because each takes its
// numbers from the largest existing ones.
func lock(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('lethe.roomgen', 0))`); err != nil {
		return fmt.Errorf("wait for other generators: %w", err)
	}
	return nil
}
