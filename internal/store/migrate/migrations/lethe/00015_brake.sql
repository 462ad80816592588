-- +goose Up

-- The limits at which jobs become slower and wait, for signals whose default limits do not
-- suit the server.
CREATE TABLE lethe.brake (
    signal text             NOT NULL PRIMARY KEY,
    -- NULL: there is no such limit.
    soft   double precision,
    hard   double precision,
    who    text             NOT NULL,
    set_at timestamptz      NOT NULL DEFAULT clock_timestamp()
);

-- +goose Down

DROP TABLE lethe.brake;
