-- +goose Up

ALTER TABLE lethe.jobs
    -- Why the job was requested, in the words of its requester.
    ADD COLUMN reason  text,
    -- The process of the last run: its host and process id.
    ADD COLUMN worker  text,
    -- How many events the job will go through, and of a sweep how many rooms. NULL: not
    -- known.
    ADD COLUMN total   bigint CHECK (total >= 0),
    -- The numbers of deleted rows by table. Each batch adds its own in its commit.
    ADD COLUMN deleted jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(deleted) = 'object'),
    -- The end of the grace, before which nothing is done.
    ADD COLUMN due_at  timestamptz CHECK (isfinite(due_at)),
    -- The plan that the job was accepted with: its digest, and how many events the room
    -- may have drifted from it.
    ADD COLUMN plan    jsonb;

-- A scheduled job waits for the end of its grace, and a paused one for the end of a
-- pause. Neither has ended.
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE lethe.jobs
    ADD CONSTRAINT jobs_state_check CHECK (state IN (
        'scheduled', 'queued', 'running', 'held', 'paused', 'absorbed', 'complete', 'failed', 'cancelled')),
    ADD CONSTRAINT jobs_due_check CHECK (state <> 'scheduled' OR due_at IS NOT NULL);
CREATE INDEX jobs_scheduled ON lethe.jobs (due_at) WHERE state = 'scheduled';
CREATE INDEX jobs_paused ON lethe.jobs (id) WHERE state = 'paused';

-- Both still count as their room's jobs, as held ones do.
DROP INDEX lethe.jobs_one_delete_per_room;
CREATE UNIQUE INDEX jobs_one_delete_per_room ON lethe.jobs (room_id)
    WHERE kind = 'delete_room' AND state IN ('scheduled', 'queued', 'running', 'held', 'paused');
DROP INDEX lethe.jobs_open;
CREATE INDEX jobs_open ON lethe.jobs (room_id) WHERE state IN ('scheduled', 'queued', 'running', 'held', 'paused');
DROP INDEX lethe.jobs_one_low_purge_per_room;
CREATE UNIQUE INDEX jobs_one_low_purge_per_room ON lethe.jobs (room_id)
    WHERE queue = 'low' AND kind = 'purge_history' AND state IN ('scheduled', 'queued', 'running', 'held', 'paused');

-- Jobs are listed a page at a time, the newest first.
CREATE INDEX jobs_created ON lethe.jobs (created_at, id);

-- A pause keeps jobs from running: one job, those of a room, those of a kind, or all.
CREATE TABLE lethe.pauses (
    scope  text        NOT NULL CHECK (scope IN ('job', 'room', 'kind', 'all')),
    -- The id of the job or the room, the kind, or "all".
    value  text        NOT NULL CHECK (value <> ''),
    who    text        NOT NULL,
    reason text        NOT NULL,
    set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- From this time on it does not count. NULL: it counts until it is lifted.
    until  timestamptz CHECK (isfinite(until)),
    PRIMARY KEY (scope, value),
    CHECK (scope <> 'all' OR value = 'all')
);

-- pause_of says which pause keeps a job from running, the widest first, in words. NULL:
-- none does.
-- +goose StatementBegin
CREATE FUNCTION lethe.pause_of(job text, room text, kind text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT format('pause of %s, by %s: %s',
                  CASE p.scope WHEN 'all' THEN 'all jobs' WHEN 'kind' THEN 'all jobs of the kind ' || p.value WHEN 'room' THEN 'the room' ELSE 'the job' END,
                  p.who, p.reason)
    FROM lethe.pauses p
    WHERE (p.until IS NULL OR p.until > clock_timestamp())
      AND (p.scope = 'all' OR p.scope = 'kind' AND p.value = $3 OR p.scope = 'room' AND p.value = $2 OR p.scope = 'job' AND p.value = $1)
    ORDER BY array_position('{all,kind,room,job}', p.scope) LIMIT 1
$$;
-- +goose StatementEnd

-- add_rows adds numbers of rows by table.
-- +goose StatementBegin
CREATE FUNCTION lethe.add_rows(before jsonb, more jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(jsonb_object_agg(s.key, s.rows), '{}')
    FROM (
        SELECT a.key, sum(a.value::bigint) AS rows
        FROM (SELECT * FROM jsonb_each_text(before) UNION ALL SELECT * FROM jsonb_each_text(more)) AS a
        GROUP BY a.key) AS s
$$;
-- +goose StatementEnd

-- Limits of the whole fleet, by kind of job. NULL: what the settings say.
CREATE TABLE lethe.fleet (
    kind            text        NOT NULL PRIMARY KEY,
    -- How many rows the jobs of the kind may delete per second. 0: any number.
    rows_per_second integer     CHECK (rows_per_second >= 0),
    -- How many jobs of the kind may run at a time.
    jobs            integer     CHECK (jobs > 0),
    who             text        NOT NULL,
    set_at          timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What has happened to a job: the changes of its state, and what users have done to it.
CREATE TABLE lethe.job_events (
    id     bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id text        NOT NULL REFERENCES lethe.jobs (id) ON DELETE CASCADE,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The new state, or the verb.
    event  text        NOT NULL,
    -- Who has done it, and why. NULL: a process of Lethe's.
    who    text,
    reason text,
    detail jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX job_events_of_job ON lethe.job_events (job_id, id);

-- A run that yields and goes on again, or that looks whether it must still wait, does not
-- make the job's log longer.
-- +goose StatementBegin
CREATE FUNCTION lethe.note_state() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last text;
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO lethe.job_events (job_id, event, who, reason, detail)
        VALUES (NEW.id, NEW.state, NEW.requester, NEW.reason, jsonb_strip_nulls(jsonb_build_object(
            'due_ts', floor(extract(epoch FROM NEW.due_at) * 1000), 'plan', NEW.plan)));
        RETURN NULL;
    END IF;
    IF NEW.generation = OLD.generation AND NEW.waits_for IS NOT DISTINCT FROM OLD.waits_for THEN
        IF OLD.state = 'running' AND NEW.state = 'queued' THEN
            RETURN NULL;
        ELSIF OLD.state = 'queued' AND NEW.state = 'running' THEN
            SELECT e.event INTO last FROM lethe.job_events e
            WHERE e.job_id = NEW.id AND e.event = ANY ('{queued,running}') ORDER BY e.id DESC LIMIT 1;
            IF NEW.waits_for IS NOT NULL OR last = 'running' THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
    INSERT INTO lethe.job_events (job_id, event, detail)
    VALUES (NEW.id, NEW.state, jsonb_strip_nulls(jsonb_build_object(
        'from', nullif(OLD.state, NEW.state), 'waits_for', CASE WHEN NEW.ended_at IS NULL THEN NEW.waits_for END, 'error', NEW.error,
        'worker', CASE WHEN NEW.state = 'running' THEN NEW.worker END,
        'last_failure', CASE WHEN NEW.failures > OLD.failures THEN NEW.last_failure END,
        'absorbed_by', CASE WHEN NEW.state = 'absorbed' THEN NEW.checkpoint -> 'absorbed_by' END,
        'complete_below', CASE WHEN NEW.ended_at IS NOT NULL THEN NEW.checkpoint -> 'complete_below' END)));
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER note_new AFTER INSERT ON lethe.jobs FOR EACH ROW EXECUTE FUNCTION lethe.note_state();
CREATE TRIGGER note_state AFTER UPDATE OF state, waits_for ON lethe.jobs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.waits_for IS DISTINCT FROM NEW.waits_for)
    EXECUTE FUNCTION lethe.note_state();

-- The job that has purged the events. The mappings that are deleted for it are counted in
-- a table of their own: a batch of the job locks its row and then waits for the delayed
-- mappings, so their deletion must not wait for the row.
ALTER TABLE lethe.delayed_mappings ADD COLUMN job_id text;
CREATE TABLE lethe.swept_mappings (
    job_id   text   NOT NULL PRIMARY KEY REFERENCES lethe.jobs (id) ON DELETE CASCADE,
    mappings bigint NOT NULL
);

-- +goose Down

DROP TRIGGER note_state ON lethe.jobs;
DROP TRIGGER note_new ON lethe.jobs;
DROP FUNCTION lethe.note_state();
DROP FUNCTION lethe.pause_of(text, text, text), lethe.add_rows(jsonb, jsonb);
DROP TABLE lethe.swept_mappings, lethe.job_events, lethe.fleet, lethe.pauses;
ALTER TABLE lethe.delayed_mappings DROP COLUMN job_id;

-- Older versions know no grace: they would delete at once what is due later.
UPDATE lethe.jobs SET state = 'cancelled', generation = generation + 1, ended_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE state = 'scheduled' AND due_at > clock_timestamp();
UPDATE lethe.jobs
SET state = 'queued', generation = generation + 1, task_missing_since = '-infinity', waits_for = NULL, waits_since = NULL
WHERE state IN ('scheduled', 'paused');

DROP INDEX lethe.jobs_created;
DROP INDEX lethe.jobs_one_low_purge_per_room;
CREATE UNIQUE INDEX jobs_one_low_purge_per_room ON lethe.jobs (room_id)
    WHERE queue = 'low' AND kind = 'purge_history' AND state IN ('queued', 'running', 'held');
DROP INDEX lethe.jobs_open;
CREATE INDEX jobs_open ON lethe.jobs (room_id) WHERE state IN ('queued', 'running', 'held');
DROP INDEX lethe.jobs_one_delete_per_room;
CREATE UNIQUE INDEX jobs_one_delete_per_room ON lethe.jobs (room_id)
    WHERE kind = 'delete_room' AND state IN ('queued', 'running', 'held');
DROP INDEX lethe.jobs_paused;
DROP INDEX lethe.jobs_scheduled;
ALTER TABLE lethe.jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE lethe.jobs DROP COLUMN plan, DROP COLUMN due_at, DROP COLUMN deleted, DROP COLUMN total, DROP COLUMN worker, DROP COLUMN reason;
ALTER TABLE lethe.jobs ADD CONSTRAINT jobs_state_check
    CHECK (state IN ('queued', 'running', 'held', 'absorbed', 'complete', 'failed', 'cancelled'));
