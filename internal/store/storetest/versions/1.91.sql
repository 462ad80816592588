-- The schema of Synapse 1.91, version 80, made from that of 1.98, version 83: with the
-- tables of an experiment with imported history, and of transactions by access token.

DROP TABLE timeline_gaps;

CREATE TABLE batch_events (
    event_id text NOT NULL,
    room_id  text NOT NULL,
    batch_id text NOT NULL
);
CREATE UNIQUE INDEX ON batch_events (event_id);

CREATE TABLE insertion_events (
    event_id      text NOT NULL,
    room_id       text NOT NULL,
    next_batch_id text NOT NULL
);
CREATE UNIQUE INDEX ON insertion_events (event_id);

CREATE TABLE insertion_event_edges (
    event_id                text NOT NULL,
    room_id                 text NOT NULL,
    insertion_prev_event_id text NOT NULL
);
CREATE INDEX ON insertion_event_edges (event_id);

CREATE TABLE insertion_event_extremities (
    event_id text NOT NULL,
    room_id  text NOT NULL
);
CREATE UNIQUE INDEX ON insertion_event_extremities (event_id);

CREATE TABLE event_txn_id (
    event_id    text   NOT NULL REFERENCES events (event_id) ON DELETE CASCADE,
    room_id     text   NOT NULL,
    user_id     text   NOT NULL,
    token_id    bigint NOT NULL REFERENCES access_tokens (id) ON DELETE CASCADE,
    txn_id      text   NOT NULL,
    inserted_ts bigint NOT NULL
);
CREATE UNIQUE INDEX ON event_txn_id (event_id);

DELETE FROM applied_schema_deltas WHERE version > 80;
UPDATE schema_version SET version = 80;
