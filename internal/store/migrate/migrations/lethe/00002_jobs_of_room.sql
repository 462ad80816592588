-- +goose Up

-- The index now includes ended jobs: the deletes of a room are listed with their
-- results.
DROP INDEX lethe.jobs_of_room;
CREATE INDEX jobs_of_room ON lethe.jobs (room_id);

-- +goose Down

DROP INDEX lethe.jobs_of_room;
CREATE INDEX jobs_of_room ON lethe.jobs (room_id) WHERE state IN ('queued', 'running');
