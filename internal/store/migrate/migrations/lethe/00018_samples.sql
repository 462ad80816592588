-- +goose Up

-- How far the job had come at the ends of some of its batches: the least time between two
-- of them (gap_ms), and points of a time in Unix milliseconds with the events, or of a sweep
-- the rooms, that it had gone through. NULL: before the first batch.
ALTER TABLE lethe.jobs ADD COLUMN samples jsonb CHECK (jsonb_typeof(samples) = 'object');

-- add_sample adds the point of a checkpoint, unless the last one is too young. Of 200 points
-- it drops every second one, and doubles the gap. Functions that other roles make have no
-- effect on it.
-- +goose StatementBegin
CREATE FUNCTION lethe.add_sample(before jsonb, checkpoint jsonb) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at     bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
    gap    bigint := coalesce((before ->> 'gap_ms')::bigint, 500);
    points jsonb  := coalesce(before -> 'points', '[]');
    done   numeric;
BEGIN
    IF abs(at - (points -> -1 ->> 0)::bigint) < gap THEN
        RETURN before;
    END IF;
    SELECT coalesce(sum(n::text::numeric), 0) INTO done
    FROM unnest(ARRAY[checkpoint -> 'events_deleted', checkpoint -> 'events_kept', checkpoint -> 'sweep' -> 'rooms']) AS n
    WHERE jsonb_typeof(n) = 'number';
    points := points || jsonb_build_array(jsonb_build_array(at, done));
    IF jsonb_array_length(points) >= 200 THEN
        SELECT jsonb_agg(p.value ORDER BY p.n) INTO points
        FROM jsonb_array_elements(points) WITH ORDINALITY AS p (value, n) WHERE p.n = 1 OR p.n % 2 = 0;
        gap := gap * 2;
    END IF;
    RETURN jsonb_build_object('gap_ms', gap, 'points', points);
END $$;
-- +goose StatementEnd

-- +goose Down

DROP FUNCTION lethe.add_sample(jsonb, jsonb);
ALTER TABLE lethe.jobs DROP COLUMN samples;
