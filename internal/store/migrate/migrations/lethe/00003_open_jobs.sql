-- +goose Up

-- A retention sweep checks each room for open jobs, and most rooms that it purges
-- have hundreds of ended ones.
CREATE INDEX jobs_open ON lethe.jobs (room_id) WHERE state IN ('queued', 'running');

-- +goose Down

DROP INDEX lethe.jobs_open;
