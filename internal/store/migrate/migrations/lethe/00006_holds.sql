-- +goose Up
-- A hold says that nothing of a room may be deleted. Rows stay after the release, as
-- a journal.
CREATE TABLE lethe.holds (
    id          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    room_id     text        NOT NULL CHECK (room_id <> ''),
    reason      text        NOT NULL CHECK (reason <> ''),
    placed_by   text        NOT NULL,
    placed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    released_by text,
    released_at timestamptz,
    CHECK ((released_by IS NULL) = (released_at IS NULL))
);
-- Every batch searches this index.
CREATE UNIQUE INDEX holds_one_per_room ON lethe.holds (room_id) WHERE released_at IS NULL;

-- A held job waits for the end of a hold on its room. It has not ended.
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_state_check
    CHECK (state IN ('queued', 'running', 'held', 'complete', 'failed', 'cancelled'));
CREATE INDEX jobs_held ON lethe.jobs (id) WHERE state = 'held';

-- A held job still counts as its room's job. It does not count in the low queue, or
-- the purges of rooms that are held for years would fill it.
DROP INDEX lethe.jobs_one_delete_per_room;
CREATE UNIQUE INDEX jobs_one_delete_per_room ON lethe.jobs (room_id)
    WHERE kind = 'delete_room' AND state IN ('queued', 'running', 'held');
DROP INDEX lethe.jobs_open;
CREATE INDEX jobs_open ON lethe.jobs (room_id) WHERE state IN ('queued', 'running', 'held');
DROP INDEX lethe.jobs_one_low_purge_per_room;
CREATE UNIQUE INDEX jobs_one_low_purge_per_room ON lethe.jobs (room_id)
    WHERE queue = 'low' AND kind = 'purge_history' AND state IN ('queued', 'running', 'held');

-- +goose Down
UPDATE lethe.jobs SET state = 'queued', generation = generation + 1, task_missing_since = '-infinity' WHERE state = 'held';
DROP INDEX lethe.jobs_one_low_purge_per_room;
CREATE UNIQUE INDEX jobs_one_low_purge_per_room ON lethe.jobs (room_id)
    WHERE queue = 'low' AND kind = 'purge_history' AND state IN ('queued', 'running');
DROP INDEX lethe.jobs_open;
CREATE INDEX jobs_open ON lethe.jobs (room_id) WHERE state IN ('queued', 'running');
DROP INDEX lethe.jobs_one_delete_per_room;
CREATE UNIQUE INDEX jobs_one_delete_per_room ON lethe.jobs (room_id)
    WHERE kind = 'delete_room' AND state IN ('queued', 'running');
DROP INDEX lethe.jobs_held;
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_state_check
    CHECK (state IN ('queued', 'running', 'complete', 'failed', 'cancelled'));
DROP TABLE lethe.holds;
