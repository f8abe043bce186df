"""Take over the waiting `read` jobs of version 0.1, which kept its queue in a DBOS system database.

Version 0.1 kept a row per job in `workflow_status`, in SQLite beside the vault or in the schema `dbos`
of a Postgres.  Its `remember` jobs need no rows: migration 0005 makes them from the pending turns.
Delete this module, `jobs.url` and `Config.legacy_jobs_url` once upgrades from 0.1 are not supported.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import READ, JobStore
from memos_vllm.vault.tables import SettingRow
from memos_vllm.vault.upsert import put_setting

log = logging.getLogger(__name__)
_SETTING = "legacy_jobs_taken_over"
_TABLE, _SCHEMA = "workflow_status", "dbos"
_PREFIX = f"{READ}:"


def take_over(database: Database, url: str) -> int:
    """Queue the old database's waiting `read` jobs, once; returns how many it had.

    An old database that cannot be read is logged and tried again at the next start.
    """
    with database.read() as session:
        if session.get(SettingRow, _SETTING) is not None:
            return 0
    try:
        subjects = _waiting(url)
    except SQLAlchemyError as error:
        log.warning("the job database of version 0.1 is not taken over: %s", error)
        return 0
    with database.write() as session:
        for subject in subjects:
            JobStore.add_in(session, READ, subject)
        put_setting(session, _SETTING, str(len(subjects)))
    if subjects:
        log.info("%d jobs of version 0.1 are taken over", len(subjects))
    return len(subjects)


def _waiting(url: str) -> list[str]:
    """Subjects of the old database's `read` jobs that have not ended, oldest first."""
    engine = _engine(url)
    if engine is None:
        return []
    is_sqlite = engine.dialect.name == "sqlite"
    schema = None if is_sqlite else _SCHEMA
    table = _TABLE if is_sqlite else f"{_SCHEMA}.{_TABLE}"
    try:
        if not inspect(engine).has_table(_TABLE, schema=schema):
            return []
        with engine.connect() as connection:
            ids = connection.scalars(
                text(
                    f"SELECT workflow_uuid FROM {table} WHERE status IN ('ENQUEUED', 'PENDING') "
                    f"AND workflow_uuid LIKE '{_PREFIX}%' ORDER BY created_at, workflow_uuid"
                )
            )
            return list(dict.fromkeys(_subject(identifier) for identifier in ids))
    finally:
        engine.dispose()


def _engine(url: str) -> Engine | None:
    """None: there is no such SQLite file, and it is not created."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or not Path(parsed.database).is_file():
            return None
    else:
        parsed = parsed.set(drivername="postgresql+psycopg")  # as DBOS did
    return create_engine(parsed, poolclass=NullPool)


def _subject(workflow: str) -> str:
    """Of `read:{subject}:{attempt}`; a subject may have colons."""
    return workflow.removeprefix(_PREFIX).rpartition(":")[0]
