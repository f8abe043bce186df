"""The server's secrets by name, each with the older ones that still serve.

A secret comes from its source (`governance.secrets`), behind it stand those that the database made; without
a source the database's alone.  Sources are read again in the background: rotation needs no restart, and a
source that is away changes nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Callable

from memos_vllm import metrics
from memos_vllm.config.secrets import SecretsConfig
from memos_vllm.errors import ConfigError, Conflict, VaultUnavailable
from memos_vllm.governance.secret_sources import read_secrets
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import SettingRow

log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Known:
    secrets: tuple[bytes, ...]
    """The newest first."""
    read_at: float
    """Seconds of the monotonic clock."""
    is_reading: bool = False


class SecretRing:
    def __init__(self, database: Database, config: SecretsConfig | None = None) -> None:
        self._database, self._config = database, config or SecretsConfig()
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    def all(self, name: str) -> tuple[bytes, ...]:
        """Secrets of a name, the newest first; the first call reads its source.

        Raises:
            ConfigError: the source has no secret.
            VaultUnavailable: the database is away at the first call.
        """
        known = self._known.get(name)
        if known is None:
            with self._lock:
                known = self._known.get(name)
                if known is None:
                    known = self._known[name] = _Known(self._read(name), time.monotonic())
        if time.monotonic() - known.read_at > self._config.refresh_seconds:
            self._refresh(name, known)
        return known.secrets

    def read_now(self, name: str) -> None:
        """Read a source again at once, for what has to reach a rotation that this process has not seen."""
        self.all(name)
        self._reread(name, self._known[name])

    def reader(self, name: str) -> Callable[[], tuple[bytes, ...]]:
        return lambda: self.all(name)

    def rotate(self, name: str) -> None:
        """Make a new secret in the database; the older ones serve on.

        Raises:
            Conflict: the secret has a source, which is where it is rotated.
        """
        if (source := self._source(name)) is not None:
            scheme = source.partition(":")[0]
            raise Conflict(
                f"`governance.secrets.{name}` names a source ({scheme}): add a new secret there, as the "
                "last one; servers read it within `governance.secrets.refresh_seconds`"
            )
        first = self._database.secret(name)
        with self._database.write() as session:
            row = session.get(SettingRow, name, with_for_update=True)
            before = row.value if row is not None else first.hex()
            session.merge(SettingRow(key=name, value=f"{secrets.token_hex(32)} {before}"))
        self.read_now(name)

    # -- inside -----------------------------------------------------------------------------------

    def _source(self, name: str) -> str | None:
        source: str | None = getattr(self._config, name)
        return source

    def _read(self, name: str) -> tuple[bytes, ...]:
        source = self._source(name)
        if source is None:
            self._database.secret(name)  # made on first use
            return self._stored(name)
        fresh = read_secrets(source, self._config.token)[::-1]
        return (*fresh, *(each for each in self._stored(name) if each not in fresh))

    def _stored(self, name: str) -> tuple[bytes, ...]:
        with self._database.read() as session:
            row = session.get(SettingRow, name)
        return tuple(map(bytes.fromhex, row.value.split())) if row is not None else ()

    def _refresh(self, name: str, known: _Known) -> None:
        """Read again in a thread, one at a time."""
        with self._lock:
            if known.is_reading:
                return
            known.is_reading = True
        threading.Thread(target=self._reread, args=(name, known), daemon=True).start()

    def _reread(self, name: str, known: _Known) -> None:
        try:
            known.secrets = self._read(name)
        except (ConfigError, VaultUnavailable) as error:
            metrics.SECRET_FAILURES.labels(name).inc()
            log.error("the secret %s is not read again, the known one serves: %s", name, error)
        finally:
            known.read_at, known.is_reading = time.monotonic(), False
