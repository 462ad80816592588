-- +goose Up

-- When each of retention's jobs was due last, and is due next. A tick is a time
-- at which a job is due; there is nothing but the settings that says when these
-- are. The row of a job that the settings no longer have stays, and does nothing.
CREATE TABLE lethe.schedules (
    -- The job's name in the settings.
    job       text        NOT NULL PRIMARY KEY,
    -- The last tick that was decided about. It moves forward only, unless it is
    -- in the future, which it can be only after a clock was wrong.
    last_tick timestamptz NOT NULL CHECK (isfinite(last_tick)),
    -- What was decided. noted: the job was new, and waits for its next tick.
    -- accepted: the tick has a sweep. skipped: the sweep before had not ended.
    outcome   text        NOT NULL CHECK (outcome IN ('noted', 'accepted', 'skipped')),
    -- The row in lethe.jobs of the last sweep, NULL before the first.
    sweep_id  text        CHECK (sweep_id ~ '^[A-Za-z]{16}$'),
    -- How many ticks were skipped, in all.
    skipped   bigint      NOT NULL DEFAULT 0,
    -- NULL: there is no further one.
    next_tick timestamptz CHECK (isfinite(next_tick)),
    taken_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (outcome <> 'accepted' OR sweep_id IS NOT NULL)
);

-- +goose Down

DROP TABLE lethe.schedules;
