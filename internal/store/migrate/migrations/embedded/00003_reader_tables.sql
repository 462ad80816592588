-- +goose Up

-- The other tables of Synapse 1.160 that decide which events local users see, with
-- the same names, types, keys and indexes.

-- The users whose messages a user ignores.
CREATE TABLE ignored_users (
    ignorer_user_id text NOT NULL,
    ignored_user_id text NOT NULL
);
CREATE UNIQUE INDEX ignored_users_uniqueness ON ignored_users (ignorer_user_id, ignored_user_id);
CREATE INDEX ignored_users_ignored_user_id ON ignored_users (ignored_user_id);

-- Erased users. Only members at the time of sending see their messages.
CREATE TABLE erased_users (
    user_id text NOT NULL
);
CREATE UNIQUE INDEX erased_users_user ON erased_users (user_id);

-- Data that clients store for their users.
CREATE TABLE account_data (
    user_id           text   NOT NULL,
    account_data_type text   NOT NULL,
    stream_id         bigint NOT NULL,
    content           text   NOT NULL,
    instance_name     text,
    CONSTRAINT account_data_uniqueness UNIQUE (user_id, account_data_type)
);
CREATE INDEX account_data_stream_id ON account_data (user_id, stream_id);

-- +goose Down

DROP TABLE ignored_users, erased_users, account_data;
