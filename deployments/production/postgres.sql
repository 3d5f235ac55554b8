-- Read once, when compose.server.yaml's PostgreSQL is empty: the coordinator's own database is there already.
CREATE DATABASE prefect;
