package besidetest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/store/migrate"
)

// tables are what a database that Synapse made has beyond an embedded one, as far as
// Lethe uses it. Tests compare them with Synapse's own.
const tables = `
	-- The schema lethe is the one of the user who makes them, and would come first.
	SET search_path = public;

	-- By this table Lethe knows the databases that it made itself.
	DROP TABLE lethe.migrations_embedded;

	CREATE TABLE worker_locks (
		lock_name text NOT NULL, lock_key text NOT NULL, instance_name text NOT NULL, token text NOT NULL,
		last_renewed_ts bigint NOT NULL);
	CREATE UNIQUE INDEX worker_locks_key ON worker_locks (lock_name, lock_key);

	CREATE UNLOGGED TABLE worker_read_write_locks_mode (
		lock_name text NOT NULL, lock_key text NOT NULL, write_lock boolean NOT NULL, token text NOT NULL);
	CREATE UNIQUE INDEX worker_read_write_locks_mode_key ON worker_read_write_locks_mode (lock_name, lock_key);
	CREATE UNIQUE INDEX worker_read_write_locks_mode_type ON worker_read_write_locks_mode (lock_name, lock_key, write_lock);

	CREATE UNLOGGED TABLE worker_read_write_locks (
		lock_name text NOT NULL, lock_key text NOT NULL, instance_name text NOT NULL, write_lock boolean NOT NULL,
		token text NOT NULL, last_renewed_ts bigint NOT NULL);
	CREATE UNIQUE INDEX worker_read_write_locks_key ON worker_read_write_locks (lock_name, lock_key, token);
	CREATE UNIQUE INDEX worker_read_write_locks_write ON worker_read_write_locks (lock_name, lock_key) WHERE write_lock;

	ALTER TABLE worker_read_write_locks ADD CONSTRAINT worker_read_write_locks_lock_name_lock_key_write_lock_fkey
		FOREIGN KEY (lock_name, lock_key, write_lock) REFERENCES worker_read_write_locks_mode (lock_name, lock_key, write_lock);
	ALTER TABLE worker_read_write_locks_mode ADD CONSTRAINT worker_read_write_locks_mode_foreign
		FOREIGN KEY (lock_name, lock_key, token) REFERENCES worker_read_write_locks (lock_name, lock_key, token)
		DEFERRABLE INITIALLY DEFERRED;

	-- The first lock of a name and key brings their row of the mode, for reading or
	-- writing. A lock of the other mode finds that row, and breaks its foreign key.
	CREATE FUNCTION upsert_read_write_lock_parent() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO worker_read_write_locks_mode (lock_name, lock_key, write_lock, token)
		SELECT NEW.lock_name, NEW.lock_key, NEW.write_lock, NEW.token
		ON CONFLICT (lock_name, lock_key) DO UPDATE SET write_lock = EXCLUDED.write_lock WHERE false; -- only locks the row
		RETURN NEW;
	END $$;
	CREATE TRIGGER upsert_read_write_lock_parent_trigger BEFORE INSERT ON worker_read_write_locks
		FOR EACH ROW EXECUTE FUNCTION upsert_read_write_lock_parent();

	-- The row of the mode passes to another holder of the lock, if there is one, and
	-- goes with the last.
	CREATE FUNCTION delete_read_write_lock_parent() RETURNS trigger LANGUAGE plpgsql AS $$
	DECLARE
		heir text;
	BEGIN
		PERFORM FROM worker_read_write_locks_mode m
		WHERE (m.lock_name, m.lock_key, m.token) = (OLD.lock_name, OLD.lock_key, OLD.token) FOR UPDATE;
		IF FOUND THEN
			SELECT l.token INTO heir FROM worker_read_write_locks l
			WHERE (l.lock_name, l.lock_key) = (OLD.lock_name, OLD.lock_key) LIMIT 1 FOR UPDATE SKIP LOCKED;
			IF heir IS NULL THEN
				DELETE FROM worker_read_write_locks_mode m
				WHERE (m.lock_name, m.lock_key, m.token) = (OLD.lock_name, OLD.lock_key, OLD.token);
			ELSE
				UPDATE worker_read_write_locks_mode m SET token = heir
				WHERE (m.lock_name, m.lock_key) = (OLD.lock_name, OLD.lock_key);
			END IF;
		END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER delete_read_write_lock_parent_trigger AFTER DELETE ON worker_read_write_locks
		FOR EACH ROW EXECUTE FUNCTION delete_read_write_lock_parent();

	CREATE TABLE scheduled_tasks (
		id text PRIMARY KEY, action text NOT NULL, status text NOT NULL, timestamp bigint NOT NULL,
		resource_id text, params text, result text, error text);
	CREATE INDEX scheduled_tasks_status ON scheduled_tasks (status);
	CREATE INDEX scheduled_tasks_timestamp ON scheduled_tasks (timestamp);`

// Make makes the database at the URL, which must be empty, one that Synapse could have
// made and that Lethe has migrated.
func Make(ctx context.Context, url string) error {
	if err := migrate.UpEmbedded(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, tables)
	return err
}

// Database returns the URL of a new database that Synapse could have made. It is dropped
// when the test ends. Sessions without a name count as those of a tool: those of a
// homeserver come from this package.
func Database(t *testing.T) string {
	t.Helper()
	url := devstacktest.Database(t, "beside a homeserver", Make)
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(t.Context())) }()
	_, err = conn.Exec(t.Context(), `
		DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET application_name = psql', current_database()); END $$`)
	require.NoError(t, err)
	return url
}
