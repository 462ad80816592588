-- +goose Up

ALTER TABLE lethe.jobs
    -- What is done about the space that the ended job has left, for package store/vacuum.
    -- NULL: nothing yet, or the job has deleted nothing.
    ADD COLUMN vacuum   jsonb CHECK (jsonb_typeof(vacuum) = 'object'),
    -- The generation of the job for which all of that is done. A job that is retried has
    -- another one.
    ADD COLUMN vacuumed integer;

-- Workers look here for jobs that have ended.
CREATE INDEX jobs_to_vacuum ON lethe.jobs (ended_at) WHERE ended_at IS NOT NULL AND vacuumed IS DISTINCT FROM generation;

-- +goose Down

DROP INDEX lethe.jobs_to_vacuum;
ALTER TABLE lethe.jobs DROP COLUMN vacuumed, DROP COLUMN vacuum;
