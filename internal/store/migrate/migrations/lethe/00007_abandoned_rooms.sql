-- +goose Up
-- Sweeps for abandoned rooms are a new kind of job.
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('purge_history', 'delete_room', 'retention_sweep', 'abandoned_sweep'));

-- The rooms that the last sweep has found abandoned, each with the time since which
-- all sweeps have. A room is removed when a sweep finds it not abandoned, or makes a
-- delete of it.
CREATE TABLE lethe.abandoned_rooms (
    room_id text        NOT NULL PRIMARY KEY,
    seen_at timestamptz NOT NULL
);

-- +goose Down
DROP TABLE lethe.abandoned_rooms;
DELETE FROM lethe.jobs WHERE kind = 'abandoned_sweep';
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('purge_history', 'delete_room', 'retention_sweep'));
