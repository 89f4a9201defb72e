#!/bin/sh
# Runs once, when the database is made: a role that may stream, and its password from the environment.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$TIDEMARK_PASSWORD" -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'SQL'
CREATE ROLE tidemark LOGIN REPLICATION PASSWORD :'password';
SQL
echo "host replication tidemark all scram-sha-256" >>"$PGDATA/pg_hba.conf"
