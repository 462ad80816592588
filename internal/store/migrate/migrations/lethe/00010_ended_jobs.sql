-- +goose Up

-- The journal is pruned by the time of the jobs' ends.
CREATE INDEX jobs_ended ON lethe.jobs (ended_at) WHERE ended_at IS NOT NULL;

-- +goose Down

DROP INDEX lethe.jobs_ended;
