-- +goose Up

-- The last and the next tick of each retention job. A tick is a time at which the
-- job is due; only the settings define the ticks. The row of a job that the settings
-- no longer have stays, and has no effect.
CREATE TABLE lethe.schedules (
    -- The job's name in the settings.
    job       text        NOT NULL PRIMARY KEY,
    -- The last tick that was decided. It only moves forward, unless it is in the
    -- future, which happens only after a clock was wrong.
    last_tick timestamptz NOT NULL CHECK (isfinite(last_tick)),
    -- The decision. noted: the job was new, and waits for its next tick. accepted:
    -- the tick has a sweep. skipped: the previous sweep had not ended.
    outcome   text        NOT NULL CHECK (outcome IN ('noted', 'accepted', 'skipped')),
    -- The id of the last sweep in lethe.jobs, NULL before the first.
    sweep_id  text        CHECK (sweep_id ~ '^[A-Za-z]{16}$'),
    -- The total number of skipped ticks.
    skipped   bigint      NOT NULL DEFAULT 0,
    -- NULL: there is no further tick.
    next_tick timestamptz CHECK (isfinite(next_tick)),
    taken_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (outcome <> 'accepted' OR sweep_id IS NOT NULL)
);

-- +goose Down

DROP TABLE lethe.schedules;
