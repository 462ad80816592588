-- +goose Up

-- A job's row is the source of truth: its purpose, its progress and its result.
-- Redis only dispatches jobs. Rows stay after the end, as a journal.
CREATE TABLE lethe.jobs (
    id                 text        NOT NULL PRIMARY KEY CHECK (id ~ '^[A-Za-z]{16}$'),
    kind               text        NOT NULL CHECK (kind IN ('purge_history', 'delete_room', 'retention_sweep')),
    room_id            text        NOT NULL,
    parameters         jsonb       NOT NULL,
    requester          text        NOT NULL,
    state              text        NOT NULL DEFAULT 'queued'
                                   CHECK (state IN ('queued', 'running', 'complete', 'failed', 'cancelled')),
    -- The progress of the job. It changes only in the transaction of a batch.
    checkpoint         jsonb,
    -- The generation of the asynq task that may run the job. The task's id is
    -- "<job id>~<generation>".
    generation         integer     NOT NULL DEFAULT 1,
    -- The number of the claim that may run the job. Each claim takes the next one.
    attempt            integer     NOT NULL DEFAULT 0,
    -- Failures in a row. A committed batch resets it to 0.
    failures           integer     NOT NULL DEFAULT 0,
    last_failure       text,
    heartbeat_at       timestamptz,
    -- The time since which asynq has had no task of this generation. NULL: it has a
    -- task as far as known. -infinity: it never had one.
    task_missing_since timestamptz,
    error              text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    started_at         timestamptz,
    updated_at         timestamptz NOT NULL DEFAULT now(),
    ended_at           timestamptz,
    CHECK ((ended_at IS NOT NULL) = (state IN ('complete', 'failed', 'cancelled'))),
    CHECK ((state = 'running') = (heartbeat_at IS NOT NULL)),
    -- A failed job always has a reason.
    CHECK ((coalesce(error, '') <> '') = (state = 'failed'))
);

CREATE UNIQUE INDEX jobs_one_delete_per_room ON lethe.jobs (room_id)
    WHERE kind = 'delete_room' AND state IN ('queued', 'running');
CREATE INDEX jobs_of_room ON lethe.jobs (room_id) WHERE state IN ('queued', 'running');
CREATE INDEX jobs_queued ON lethe.jobs (id) WHERE state = 'queued';
CREATE INDEX jobs_task_missing ON lethe.jobs (task_missing_since)
    WHERE state = 'queued' AND task_missing_since IS NOT NULL;
-- Without heartbeat_at, so that a heartbeat updates no index.
CREATE INDEX jobs_running ON lethe.jobs (id) WHERE state = 'running';

-- The newest fence token of each room that was ever locked for writing.
CREATE TABLE lethe.room_fences (
    room_id text   NOT NULL PRIMARY KEY,
    fence   bigint NOT NULL
);

-- State groups that have lost an event to a purge, and their neighbours, until a job
-- of the room has collected them. They belong to the room and not to a job, so that
-- the next job collects what a failed one has left.
CREATE TABLE lethe.state_group_candidates (
    room_id     text    NOT NULL,
    state_group bigint  NOT NULL,
    -- found: must be checked. unused: must be deleted. shared: unused too, but
    -- several remaining groups are stored as differences to it.
    state       text    NOT NULL DEFAULT 'found' CHECK (state IN ('found', 'unused', 'shared')),
    PRIMARY KEY (room_id, state, state_group),
    UNIQUE (room_id, state_group)
);

-- +goose Down

DROP TABLE lethe.state_group_candidates, lethe.room_fences, lethe.jobs;
