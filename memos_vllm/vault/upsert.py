"""Rows that several processes make at once: the second one finds the row of the first.

On Postgres two transactions both find that a row is absent, and the second insert ends its whole transaction. Two
servers that start on a new database are such processes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from memos_vllm.vault.tables import SettingRow


def insert_absent(session: Session, model: Any, **values: Any) -> None:
    """Insert a row, unless there is one with the same key."""
    session.execute(_insert(session)(model).values(**values).on_conflict_do_nothing())


def put_setting(session: Session, key: str, value: str) -> None:
    insert = _insert(session)(SettingRow).values(key=key, value=value)
    session.execute(insert.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
    if (known := session.get(SettingRow, key)) is not None:
        session.refresh(known)


def _insert(session: Session) -> Any:
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return sqlite.insert if is_sqlite else postgresql.insert
