#!/bin/sh
# Makes Lethe's role in a new database, which it owns. It is no superuser. PostgreSQL's
# image runs this once, when the volume is empty.
set -eu

psql --set=ON_ERROR_STOP=1 --set=password="$(cat "${LETHE_PASSWORD_FILE:-/run/secrets/lethe_password}")" \
	--set=database="$POSTGRES_DB" --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" <<'SQL'
CREATE ROLE lethe LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
ALTER DATABASE :"database" OWNER TO lethe;
-- Makes purges faster, and their WAL smaller. The doctor asks for both.
GRANT SET ON PARAMETER session_replication_role, wal_compression TO lethe;
SQL
