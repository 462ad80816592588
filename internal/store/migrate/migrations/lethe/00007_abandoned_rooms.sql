-- +goose Up
-- Those who look for abandoned rooms are a kind of sweep.
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('purge_history', 'delete_room', 'retention_sweep', 'abandoned_sweep'));

-- The rooms that the last sweep has found abandoned, and since when each of them
-- so far has. One that a sweep finds otherwise, or makes a delete of, is not in it.
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
