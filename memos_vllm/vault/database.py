"""One database, SQLite (WAL) or Postgres by URL: connections, transactions, migrations.

Reads never wait for writers.  A write on SQLite takes the write lock at its beginning, so that no
transaction fails half-way because of another one.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from memos_vllm.config.tree import DatabaseConfig
from memos_vllm.errors import ConfigError, VaultUnavailable
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.vault.tables import SettingRow

_MIGRATION_LOCK = 0x6D656D6F73  # "memos": the advisory lock under which Postgres is migrated


class Database:
    def __init__(
        self, url: str, config: DatabaseConfig | None = None, audit_keys: AuditKeys | None = None
    ) -> None:
        self.audit_keys = audit_keys or AuditKeys()
        self._config = config or DatabaseConfig()
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writing = threading.Lock()
        try:
            self.engine = self._create_engine()
        except (SQLAlchemyError, ImportError) as error:
            raise ConfigError(f"cannot use the database {self.url!r}: {error}") from error

    def _create_engine(self) -> Engine:
        if not self.is_sqlite:
            return create_engine(
                self.url,
                pool_size=self._config.pool_size,
                pool_pre_ping=True,
                pool_timeout=self._config.busy_timeout_seconds,
                connect_args={"connect_timeout": max(1, int(self._config.busy_timeout_seconds))},
            )
        if self.url.database:
            folder = Path(self.url.database).parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(
                    f"cannot create {folder}: {error.strerror}; set `home` to a folder that you may write to"
                ) from error
        engine = create_engine(
            self.url,
            connect_args={"timeout": self._config.busy_timeout_seconds, "check_same_thread": False},
            pool_size=self._config.pool_size,
            max_overflow=16,
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # `begin` below sends BEGIN
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "foreign_keys=ON",
                "secure_delete=ON",
            ):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            writes = connection.get_execution_options().get("memos_writes", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that changes nothing."""
        with _translated(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction; commits when the block ends, rolls back when it raises."""
        with _translated(), self._write_slot(), self.engine.connect() as plain:
            connection = plain.execution_options(memos_writes=True)
            with Session(connection, expire_on_commit=False) as session, session.begin():
                session.info[AuditKeys] = self.audit_keys
                yield session

    @contextmanager
    def _write_slot(self) -> Iterator[None]:
        """Queue of SQLite's writers. SQLite's own queue polls with pauses of up to 100 ms while each
        waiter holds a connection, which readers would then lack."""
        if not self.is_sqlite:
            yield
            return
        if not self._writing.acquire(timeout=self._config.busy_timeout_seconds):
            raise VaultUnavailable(
                "the vault's database does not answer: other writes take too long"
            )
        try:
            yield
        finally:
            self._writing.release()

    def migrate(self) -> None:
        """Bring the schema up to this version of the code.

        Raises:
            ConfigError: the database was written by a newer version; nothing was changed.
            VaultUnavailable: it cannot be reached.
        """
        config = self._alembic()
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        with _translated(), self.engine.connect() as plain:
            connection = plain.execution_options(memos_writes=True)
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(
                        text("SELECT pg_advisory_xact_lock(:id)"), {"id": _MIGRATION_LOCK}
                    )
                current = MigrationContext.configure(connection).get_current_revision()
                if current is not None and current not in known:
                    raise ConfigError(
                        f"the database {self.url!r} has schema revision {current}, which this version of "
                        "memos_vllm does not know: it was written by a newer one. Upgrade memos-vllm, "
                        "or restore the backup made before the upgrade"
                    )
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")

    def secret(self, name: str) -> bytes:
        """32 random bytes under a name, made on first use and the same for every replica."""
        with self.write() as session:
            row = session.get(SettingRow, name)
            if row is None:
                row = SettingRow(key=name, value=secrets.token_hex(32))
                session.add(row)
            return bytes.fromhex(row.value)

    def dispose(self) -> None:
        self.engine.dispose()

    @staticmethod
    def _alembic() -> alembic.config.Config:
        config = alembic.config.Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        return config


@contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of an unreachable database to `VaultUnavailable`; others rise unchanged."""
    try:
        yield
    except (OperationalError, PoolTimeout) as error:
        raise VaultUnavailable(f"the vault's database does not answer: {_cause(error)}") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise VaultUnavailable("the connection to the vault's database was lost") from error
        raise


def _cause(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    return str(original or error).strip().splitlines()[0]
