-- +goose Up

-- An absorbed purge waits for the end of another purge of its room, which deletes
-- everything that it would delete. Its checkpoint has the other's id as absorbed_by.
-- It has not ended.
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_state_check
    CHECK (state IN ('queued', 'running', 'held', 'absorbed', 'complete', 'failed', 'cancelled'));
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_absorbed_check
    CHECK (state <> 'absorbed' OR coalesce(checkpoint ->> 'absorbed_by', '') ~ '^[A-Za-z]{16}$');
CREATE INDEX jobs_absorbed ON lethe.jobs (room_id) WHERE state = 'absorbed';

-- +goose Down
UPDATE lethe.jobs SET state = 'queued', checkpoint = NULL, generation = generation + 1, task_missing_since = '-infinity'
WHERE state = 'absorbed';
DROP INDEX lethe.jobs_absorbed;
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_absorbed_check;
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_state_check
    CHECK (state IN ('queued', 'running', 'held', 'complete', 'failed', 'cancelled'));
