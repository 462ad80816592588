-- +goose Up

-- These functions do what they did before. They run as the role of a process, with its
-- search_path. Where another role may create functions in the homeserver's schema, one of
-- its own would run if it fitted better than one of the server's. So the calls name their
-- schema or have exactly the types of the server's functions and operators.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.lock_at_homeserver(room text, names text[], holder text, its_token text, try_ms int)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    give_up timestamptz := clock_timestamp() + try_ms::float8 * interval '1 millisecond';
    renewed int;
BEGIN
    UPDATE worker_read_write_locks SET last_renewed_ts = (extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint
    WHERE lock_key = room AND lock_name = ANY (names) AND token = its_token;
    GET DIAGNOSTICS renewed = ROW_COUNT;
    IF renewed = pg_catalog.cardinality(names) THEN
        RETURN true;
    ELSIF renewed > 0 THEN
        -- A subset is never held.
        DELETE FROM worker_read_write_locks WHERE lock_key = room AND lock_name = ANY (names) AND token = its_token;
    END IF;
    LOOP
        IF NOT EXISTS (SELECT FROM worker_read_write_locks_mode WHERE lock_key = room AND lock_name = ANY (names)) THEN
            BEGIN
                INSERT INTO worker_read_write_locks (lock_name, lock_key, write_lock, instance_name, token, last_renewed_ts)
                SELECT name, room, true, holder, its_token, (extract(epoch FROM clock_timestamp())::numeric * 1000.0)::bigint
                FROM pg_catalog.unnest(names) AS name ORDER BY name;
                RETURN true;
            EXCEPTION WHEN unique_violation OR foreign_key_violation THEN
                NULL; -- another was faster
            END;
        END IF;
        IF clock_timestamp() >= give_up THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(0.001::float8);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.pause_of(job text, room text, kind text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT pg_catalog.format('pause of %s, by %s: %s',
                  CASE p.scope WHEN 'all' THEN 'all jobs' WHEN 'kind' THEN 'all jobs of the kind ' || p.value WHEN 'room' THEN 'the room' ELSE 'the job' END,
                  p.who, p.reason)
    FROM lethe.pauses p
    WHERE (p.until IS NULL OR p.until > clock_timestamp())
      AND (p.scope = 'all' OR p.scope = 'kind' AND p.value = $3 OR p.scope = 'room' AND p.value = $2 OR p.scope = 'job' AND p.value = $1)
    ORDER BY pg_catalog.array_position('{all,kind,room,job}', p.scope) LIMIT 1
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.add_rows(before jsonb, more jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(pg_catalog.jsonb_object_agg(s.key, s.rows), '{}')
    FROM (
        SELECT a.key, sum(a.value::bigint) AS rows
        FROM (SELECT * FROM jsonb_each_text(before) UNION ALL SELECT * FROM jsonb_each_text(more)) AS a
        GROUP BY a.key) AS s
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.note_state() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO lethe.job_events (job_id, event, who, reason, detail)
        VALUES (NEW.id, NEW.state, NEW.requester, NEW.reason, jsonb_strip_nulls(pg_catalog.jsonb_build_object(
            'due_ts', floor(extract(epoch FROM NEW.due_at)::numeric * 1000.0), 'plan', NEW.plan)));
        RETURN NULL;
    END IF;
    IF NEW.generation = OLD.generation AND NEW.waits_for IS NOT DISTINCT FROM OLD.waits_for THEN
        IF OLD.state = 'running' AND NEW.state = 'queued' THEN
            RETURN NULL;
        ELSIF OLD.state = 'queued' AND NEW.state = 'running' THEN
            SELECT e.event INTO last FROM lethe.job_events e
            WHERE e.job_id = NEW.id AND e.event = ANY ('{queued,running}') ORDER BY e.id DESC LIMIT 1;
            IF NEW.waits_for IS NOT NULL OR last = 'running' THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    INSERT INTO lethe.job_events (job_id, event, detail)
    VALUES (NEW.id, NEW.state, jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'from', nullif(OLD.state, NEW.state), 'waits_for', CASE WHEN NEW.ended_at IS NULL THEN NEW.waits_for END, 'error', NEW.error,
        'worker', CASE WHEN NEW.state = 'running' THEN NEW.worker END,
        'last_failure', CASE WHEN NEW.failures > OLD.failures THEN NEW.last_failure END,
        'absorbed_by', CASE WHEN NEW.state = 'absorbed' THEN NEW.checkpoint -> 'absorbed_by'::text END,
        'complete_below', CASE WHEN NEW.ended_at IS NOT NULL THEN NEW.checkpoint -> 'complete_below'::text END)));
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose Down

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.lock_at_homeserver(room text, names text[], holder text, its_token text, try_ms int)
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

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.pause_of(job text, room text, kind text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format('pause of %s, by %s: %s',
                  CASE p.scope WHEN 'all' THEN 'all jobs' WHEN 'kind' THEN 'all jobs of the kind ' || p.value WHEN 'room' THEN 'the room' ELSE 'the job' END,
                  p.who, p.reason)
    FROM lethe.pauses p
    WHERE (p.until IS NULL OR p.until > clock_timestamp())
      AND (p.scope = 'all' OR p.scope = 'kind' AND p.value = $3 OR p.scope = 'room' AND p.value = $2 OR p.scope = 'job' AND p.value = $1)
    ORDER BY array_position('{all,kind,room,job}', p.scope) LIMIT 1
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.add_rows(before jsonb, more jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(s.key, s.rows), '{}')
    FROM (
        SELECT a.key, sum(a.value::bigint) AS rows
        FROM (SELECT * FROM jsonb_each_text(before) UNION ALL SELECT * FROM jsonb_each_text(more)) AS a
        GROUP BY a.key) AS s
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION lethe.note_state() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO lethe.job_events (job_id, event, who, reason, detail)
        VALUES (NEW.id, NEW.state, NEW.requester, NEW.reason, jsonb_strip_nulls(jsonb_build_object(
            'due_ts', floor(extract(epoch FROM NEW.due_at) * 1000), 'plan', NEW.plan)));
        RETURN NULL;
    END IF;
    IF NEW.generation = OLD.generation AND NEW.waits_for IS NOT DISTINCT FROM OLD.waits_for THEN
        IF OLD.state = 'running' AND NEW.state = 'queued' THEN
            RETURN NULL;
        ELSIF OLD.state = 'queued' AND NEW.state = 'running' THEN
            SELECT e.event INTO last FROM lethe.job_events e
            WHERE e.job_id = NEW.id AND e.event = ANY ('{queued,running}') ORDER BY e.id DESC LIMIT 1;
            IF NEW.waits_for IS NOT NULL OR last = 'running' THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    INSERT INTO lethe.job_events (job_id, event, detail)
    VALUES (NEW.id, NEW.state, jsonb_strip_nulls(jsonb_build_object(
        'from', nullif(OLD.state, NEW.state), 'waits_for', CASE WHEN NEW.ended_at IS NULL THEN NEW.waits_for END, 'error', NEW.error,
        'worker', CASE WHEN NEW.state = 'running' THEN NEW.worker END,
        'last_failure', CASE WHEN NEW.failures > OLD.failures THEN NEW.last_failure END,
        'absorbed_by', CASE WHEN NEW.state = 'absorbed' THEN NEW.checkpoint -> 'absorbed_by' END,
        'complete_below', CASE WHEN NEW.ended_at IS NOT NULL THEN NEW.checkpoint -> 'complete_below' END)));
    RETURN NULL;
END $$;
-- +goose StatementEnd
