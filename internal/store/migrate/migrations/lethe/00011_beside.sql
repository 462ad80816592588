-- +goose Up

-- What a queued job waits for, in words, and since when. NULL: for its turn.
ALTER TABLE lethe.jobs
    ADD COLUMN waits_for   text,
    ADD COLUMN waits_since timestamptz,
    ADD CONSTRAINT jobs_waits_check CHECK ((waits_for IS NULL) = (waits_since IS NULL));

-- Events that a history purge has deleted, or made outliers, while their rows in
-- event_to_state_groups stay for a while: a homeserver that has such an event in its
-- memory fails without that row. One row for each batch, written by the batch.
CREATE TABLE lethe.delayed_mappings (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_id   text        NOT NULL,
    event_ids text[]      NOT NULL,
    -- Whether the stream of invalidations has told the homeserver of these events.
    told      boolean     NOT NULL,
    -- infinity: not before the homeserver has confirmed that it has forgotten them.
    due_at    timestamptz NOT NULL
);
CREATE INDEX delayed_mappings_of_room ON lethe.delayed_mappings (room_id, due_at);
CREATE INDEX delayed_mappings_due ON lethe.delayed_mappings (due_at);

-- lock_at_homeserver takes write locks of a room in the homeserver's own table of
-- locks, all of them or none, and reports whether it has. It tries for the given
-- milliseconds. Readers come and go without a queue, so a writer has to be there in
-- the moment between two of them: it looks each millisecond, here, where that takes
-- no round trip. Locks that the token already holds are renewed.
--
-- The parent rows of the locks belong to triggers. They are only looked at, because a
-- failed INSERT leaves a dead row.
-- +goose StatementBegin
CREATE FUNCTION lethe.lock_at_homeserver(room text, names text[], holder text, its_token text, try_ms int)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    give_up timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
    renewed int;
BEGIN
    UPDATE worker_read_write_locks SET last_renewed_ts = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    WHERE lock_key = room AND lock_name = ANY (names) AND token = its_token;
    GET DIAGNOSTICS renewed = ROW_COUNT;
    IF renewed = cardinality(names) THEN
        RETURN true;
    ELSIF renewed > 0 THEN
        -- A subset is never held.
        DELETE FROM worker_read_write_locks WHERE lock_key = room AND lock_name = ANY (names) AND token = its_token;
    END IF;
    LOOP
        IF NOT EXISTS (SELECT FROM worker_read_write_locks_mode WHERE lock_key = room AND lock_name = ANY (names)) THEN
            BEGIN
                INSERT INTO worker_read_write_locks (lock_name, lock_key, write_lock, instance_name, token, last_renewed_ts)
                SELECT name, room, true, holder, its_token, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
                FROM unnest(names) AS name ORDER BY name;
                RETURN true;
            EXCEPTION WHEN unique_violation OR foreign_key_violation THEN
                NULL; -- another was faster
            END;
        END IF;
        IF clock_timestamp() >= give_up THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down

UPDATE lethe.jobs SET checkpoint = jsonb_set(checkpoint, '{phase}', '"state_groups"')
WHERE kind = 'purge_history' AND checkpoint ->> 'phase' = 'mappings';
DROP FUNCTION lethe.lock_at_homeserver(text, text[], text, text, int);
DROP TABLE lethe.delayed_mappings;
ALTER TABLE lethe.jobs DROP COLUMN waits_for, DROP COLUMN waits_since;
