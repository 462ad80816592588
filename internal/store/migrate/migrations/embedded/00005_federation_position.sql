-- +goose Up

-- How far each process of the homeserver that sends events to other servers has come
-- in the stream of events (type events), as in Synapse 1.160. There is no row before a
-- homeserver has run.
CREATE TABLE federation_stream_position (
    type          text   NOT NULL,
    stream_id     bigint NOT NULL,
    instance_name text   NOT NULL DEFAULT 'master'
);
CREATE UNIQUE INDEX federation_stream_position_instance ON federation_stream_position (type, instance_name);

-- +goose Down

DROP TABLE federation_stream_position;
