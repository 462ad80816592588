-- +goose Up

-- The origin of a job: the span of a trace that its runs continue, in the format of
-- W3C's traceparent header, and the id of the request. All tasks of the job carry
-- both. The reconciler takes them from here, since asynq may have lost the first
-- task.
ALTER TABLE lethe.jobs
    ADD COLUMN trace_parent text CHECK (length(trace_parent) <= 64),
    ADD COLUMN request_id   text CHECK (length(request_id) <= 64);

-- +goose Down

ALTER TABLE lethe.jobs DROP COLUMN request_id, DROP COLUMN trace_parent;
