-- +goose Up

-- Whether a room has a job that has not ended is asked for each room of a
-- retention sweep, and of most rooms it purges hundreds have ended.
CREATE INDEX jobs_open ON lethe.jobs (room_id) WHERE state IN ('queued', 'running');

-- +goose Down

DROP INDEX lethe.jobs_open;
