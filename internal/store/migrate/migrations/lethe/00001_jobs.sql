-- +goose Up

-- A job's row is the truth about it: what it is for, how far it is, how it
-- ended. Redis only dispatches. Rows stay after the end, as the journal.
CREATE TABLE lethe.jobs (
    id                 text        NOT NULL PRIMARY KEY CHECK (id ~ '^[A-Za-z]{16}$'),
    kind               text        NOT NULL CHECK (kind IN ('purge_history', 'delete_room', 'retention_sweep')),
    room_id            text        NOT NULL,
    parameters         jsonb       NOT NULL,
    requester          text        NOT NULL,
    state              text        NOT NULL DEFAULT 'queued'
                                   CHECK (state IN ('queued', 'running', 'complete', 'failed', 'cancelled')),
    -- How far the job is. It moves only in the transaction that did the work.
    checkpoint         jsonb,
    -- Which asynq task may run the job: its id is "<job id>~<generation>".
    generation         integer     NOT NULL DEFAULT 1,
    -- Which delivery of that task may: each claim takes the next number.
    attempt            integer     NOT NULL DEFAULT 0,
    -- Failures in a row; a committed batch makes it 0 again.
    failures           integer     NOT NULL DEFAULT 0,
    last_failure       text,
    heartbeat_at       timestamptz,
    -- Since when asynq has had no task of this generation. NULL: it has one as
    -- far as we know; -infinity: it never had.
    task_missing_since timestamptz,
    error              text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    ended_at           timestamptz,
    CHECK ((ended_at IS NOT NULL) = (state IN ('complete', 'failed', 'cancelled'))),
    CHECK ((state = 'running') = (heartbeat_at IS NOT NULL)),
    -- A failed job always says why.
    CHECK ((coalesce(error, '') <> '') = (state = 'failed'))
);

CREATE UNIQUE INDEX jobs_one_delete_per_room ON lethe.jobs (room_id)
    WHERE kind = 'delete_room' AND state IN ('queued', 'running');
CREATE INDEX jobs_of_room ON lethe.jobs (room_id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_queued ON lethe.jobs (id) WHERE state = 'queued';
CREATE INDEX jobs_task_missing ON lethe.jobs (task_missing_since)
    WHERE state = 'queued' AND task_missing_since IS NOT NULL;
-- Without heartbeat_at, so that a heartbeat need not touch an index.
CREATE INDEX jobs_running ON lethe.jobs (id) WHERE state = 'running';

-- The newest fence token of each room that was ever locked for writing.
CREATE TABLE lethe.room_fences (
    room_id text   NOT NULL PRIMARY KEY,
    fence   bigint NOT NULL
);

-- State groups that lost an event to a purge, and what was found next to them,
-- until a job of the room has collected them. They belong to the room and not
-- to a job, so that the next job collects what a failed one left.
CREATE TABLE lethe.state_group_candidates (
    room_id     text    NOT NULL,
    state_group bigint  NOT NULL,
    -- found: to be looked at. unused: to be deleted. shared: unused as well, but
    -- several groups that stay are stored as differences to it.
    state       text    NOT NULL DEFAULT 'found' CHECK (state IN ('found', 'unused', 'shared')),
    PRIMARY KEY (room_id, state, state_group),
    UNIQUE (room_id, state_group)
);

-- +goose Down

DROP TABLE lethe.state_group_candidates, lethe.room_fences, lethe.jobs;
