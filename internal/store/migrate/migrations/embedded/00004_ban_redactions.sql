-- +goose Up

-- Bans and kicks that redact all events of a user in a room, as in Synapse 1.160. The
-- events that arrived at or after redact_end_ordering are not redacted.
CREATE TABLE room_ban_redactions (
    room_id             text NOT NULL,
    user_id             text NOT NULL,
    redacting_event_id  text NOT NULL,
    redact_end_ordering bigint,
    CONSTRAINT room_ban_redaction_uniqueness UNIQUE (room_id, user_id)
);

-- +goose Down

DROP TABLE room_ban_redactions;
