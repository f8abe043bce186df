"""Compaction of the database after an erasure, so that its files hold no deleted row."""

from __future__ import annotations

import time
from typing import Any

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import VaultUnavailable
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import Base

_TRIES, _PAUSE_SECONDS = 100, 0.1

SQLITE = "rewritten (VACUUM), write-ahead log empty"
POSTGRES = (
    "rows are dead and reusable (VACUUM); their bytes stay in table files until reuse or `VACUUM FULL`, "
    "and in archived logs and backups for as long as these are kept"
)


def compact(database: Database, deleted_us: int) -> str:
    """Compact all tables; returns what that means for the bytes of deleted rows.

    On SQLite, where other writes of this process wait meanwhile, one serves all rows that were deleted
    before it began: of all persons who are erased at once.

    Args:
        deleted_us: time in the transaction that deleted the rows.
    Raises:
        VaultUnavailable: the database does not answer, or readers do not end.
    """
    with database.exclusive() as connection:
        cursor, began = connection.cursor(), now_us()
        if not database.is_sqlite:
            for table in Base.metadata.sorted_tables:
                cursor.execute(f"VACUUM {table.name}")
            return POSTGRES
        if deleted_us >= database.compacted_us:  # in the order of the writers' queue
            cursor.execute("VACUUM")
            database.compacted_us = began
        _empty_log(cursor)
        return SQLITE


def empty_log(database: Database) -> None:
    """Empty SQLite's write-ahead log; nothing on Postgres. Raises VaultUnavailable."""
    if database.is_sqlite:
        with database.exclusive() as connection:
            _empty_log(connection.cursor())


def _empty_log(cursor: Any) -> None:
    for _ in range(_TRIES):
        busy, *_counts = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        time.sleep(_PAUSE_SECONDS)  # a reader still needs the log
    raise VaultUnavailable("the database's log cannot be emptied: a reader does not end")
