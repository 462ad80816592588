-- +goose Up

-- In which of asynq's queues the job's task is. NULL: in that of its kind.
ALTER TABLE lethe.jobs ADD COLUMN queue text CHECK (queue IN ('critical', 'default', 'low'));

-- The jobs that sweeps have made, of which there is a limit: how many are open,
-- and how many run.
CREATE INDEX jobs_low ON lethe.jobs (state) WHERE queue = 'low' AND state IN ('queued', 'running');
-- However often a sweep comes to a room, it is purged once.
CREATE UNIQUE INDEX jobs_one_low_purge_per_room ON lethe.jobs (room_id)
    WHERE queue = 'low' AND kind = 'purge_history' AND state IN ('queued', 'running');

-- +goose Down

DROP INDEX lethe.jobs_one_low_purge_per_room;
DROP INDEX lethe.jobs_low;
ALTER TABLE lethe.jobs DROP COLUMN queue;
