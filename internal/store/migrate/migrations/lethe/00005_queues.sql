-- +goose Up

-- The asynq queue of the job's task. NULL: the default of its kind.
ALTER TABLE lethe.jobs ADD COLUMN queue text CHECK (queue IN ('critical', 'default', 'low'));

-- The jobs that sweeps have made. The numbers of open and of running ones are
-- limited.
CREATE INDEX jobs_low ON lethe.jobs (state) WHERE queue = 'low' AND state IN ('queued', 'running');
-- A room has at most one purge of a sweep at a time.
CREATE UNIQUE INDEX jobs_one_low_purge_per_room ON lethe.jobs (room_id)
    WHERE queue = 'low' AND kind = 'purge_history' AND state IN ('queued', 'running');

-- +goose Down

DROP INDEX lethe.jobs_one_low_purge_per_room;
DROP INDEX lethe.jobs_low;
ALTER TABLE lethe.jobs DROP COLUMN queue;
