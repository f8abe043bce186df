"""The base model that the last server of this database served: adapters of an import have to fit it."""

from __future__ import annotations

from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import SettingRow
from memos_vllm.vault.upsert import put_setting

_KEY = "served_model"


class ServedModels:
    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, fingerprint: str) -> None:
        """Record the fingerprint of the model that this server serves. Raises VaultUnavailable."""
        if self.last() != fingerprint:
            with self._database.write() as session:
                put_setting(session, _KEY, fingerprint)

    def last(self) -> str | None:
        """Fingerprint; None: no server has run on this database. Raises VaultUnavailable."""
        with self._database.read() as session:
            row = session.get(SettingRow, _KEY)
            return row.value if row is not None else None
