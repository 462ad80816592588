-- +goose Up

-- Who has done what: requests for jobs, verbs, holds, pauses, limits and blocks. Entries are
-- deleted when they are older than the setting journal.keep.
CREATE TABLE lethe.audit (
    id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    who     text        NOT NULL,
    -- How it was asked for. NULL: that was not recorded.
    way     text        CHECK (way IN ('api', 'cli', 'console')),
    action  text        NOT NULL,
    -- A kind of jobs, a signal of the brake, or what a pause is of.
    subject text,
    room_id text,
    -- The job, which may be deleted before the entry.
    job_id  text,
    reason  text,
    detail  jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(detail) = 'object')
);
-- The entries are listed a page at a time, the newest first.
CREATE INDEX audit_at ON lethe.audit (at, id);
CREATE INDEX audit_who ON lethe.audit (who, at, id);
CREATE INDEX audit_room ON lethe.audit (room_id, at, id) WHERE room_id IS NOT NULL;

-- What was recorded before: the newest verbs and requests of users, holds, and the pauses
-- and limits that are set now. A limit that was replaced has left no trace.
INSERT INTO lethe.audit (at, who, action, subject, room_id, job_id, reason, detail)
SELECT at, who, action, subject, room_id, job_id, reason, detail FROM (
    (SELECT e.at, e.who, CASE WHEN e.event IN ('queued', 'scheduled') THEN 'request' ELSE e.event END AS action, j.kind AS subject,
            nullif(j.room_id, '') AS room_id, e.job_id, e.reason, e.detail
     FROM lethe.job_events e JOIN lethe.jobs j ON j.id = e.job_id
     WHERE e.who IS NOT NULL AND e.who <> 'retention'
       AND e.event IN ('queued', 'scheduled', 'cancel', 'pause', 'resume', 'retry', 'priority')
     ORDER BY e.id DESC LIMIT 100000)
    UNION ALL
    SELECT placed_at, placed_by, 'hold', NULL, room_id, NULL, reason, '{}' FROM lethe.holds
    UNION ALL
    SELECT released_at, released_by, 'lift_hold', NULL, room_id, NULL, NULL, '{}' FROM lethe.holds WHERE released_at IS NOT NULL
    UNION ALL
    SELECT set_at, who, 'set_pause', CASE scope WHEN 'all' THEN 'all jobs' WHEN 'kind' THEN value ELSE scope END, CASE WHEN scope = 'room' THEN value END,
           NULL, reason, '{}'
    FROM lethe.pauses WHERE scope <> 'job'
    UNION ALL
    SELECT set_at, who, 'set_limits', kind, NULL, NULL, NULL, jsonb_build_object('rows_per_second', rows_per_second, 'jobs', jobs) FROM lethe.fleet
    UNION ALL
    SELECT set_at, who, 'set_brake', signal, NULL, NULL, NULL, jsonb_build_object('soft', soft, 'hard', hard) FROM lethe.brake
) AS recorded
ORDER BY at;

-- +goose Down

DROP TABLE lethe.audit;
