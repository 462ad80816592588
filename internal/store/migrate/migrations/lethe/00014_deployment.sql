-- +goose Up

-- The deployment of Lethe that uses this database. Its id is a part of every name in
-- Redis, so that several deployments can share one.
CREATE TABLE lethe.deployment (
    -- There is one row.
    only_row          boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (only_row),
    id                text        NOT NULL CHECK (id ~ '^[0-9a-f]{12}$'),
    -- The server and the database for which the id was made. In a copy they are not those of
    -- the copy. NULL: the server does not tell who it is.
    system_identifier bigint,
    database_oid      oid         NOT NULL,
    set_at            timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- system_identifier returns the identifier of the server's data, which a standby shares and
-- pg_upgrade changes. NULL: the role may not know it, or the server has no such function,
-- as some hosted ones.
-- +goose StatementBegin
CREATE FUNCTION lethe.system_identifier() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c);
EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN
    RETURN NULL;
END $$;
-- +goose StatementEnd

INSERT INTO lethe.deployment (id, system_identifier, database_oid)
SELECT pg_catalog.substr(pg_catalog.replace(pg_catalog.gen_random_uuid()::text, '-', ''), 1, 12), lethe.system_identifier(), d.oid
FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database();

-- The tasks of queued jobs have names without the id, which no worker of this version
-- takes: the jobs have no tasks.
UPDATE lethe.jobs SET task_missing_since = '-infinity' WHERE state = 'queued';

-- +goose Down

UPDATE lethe.jobs SET task_missing_since = '-infinity' WHERE state = 'queued';
DROP FUNCTION lethe.system_identifier();
DROP TABLE lethe.deployment;
