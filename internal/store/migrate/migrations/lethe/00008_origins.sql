-- +goose Up

-- What made a job: the span of a trace that its runs continue, as W3C's header
-- traceparent has it, and the id of the request. All tasks of the job carry both,
-- those that the reconciler makes too, and asynq may have lost the first one.
ALTER TABLE lethe.jobs
    ADD COLUMN trace_parent text CHECK (length(trace_parent) <= 64),
    ADD COLUMN request_id   text CHECK (length(request_id) <= 64);

-- +goose Down

ALTER TABLE lethe.jobs DROP COLUMN request_id, DROP COLUMN trace_parent;
