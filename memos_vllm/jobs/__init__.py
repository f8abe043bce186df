"""Durable background work, by DBOS: SQLite embedded, Postgres at scale."""
