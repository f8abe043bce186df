"""One database, SQLite (WAL) or Postgres by URL: connections, transactions, migrations.

Reads never wait for writers.  A write on SQLite takes the write lock at its beginning, so that no
transaction fails half-way because of another one.
"""

from __future__ import annotations

import functools
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from memos_vllm.config.policies import TenantPolicy
from memos_vllm.config.tree import DatabaseConfig
from memos_vllm.cube.ids import now_us
from memos_vllm.errors import ConfigError, VaultUnavailable
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.vault.audit import WRITTEN
from memos_vllm.vault.quotas import Quotas
from memos_vllm.vault.tables import SettingRow
from memos_vllm.vault.upsert import insert_absent

LIVE_SECONDS = 20.0
"""How long a server counts as running after it has said so."""
_MIGRATION_LOCK = 0x6D656D6F73  # "memos": the advisory lock under which Postgres is migrated

POLICY_OF = "memos_policy_of"


class Database:
    def __init__(
        self, url: str, config: DatabaseConfig | None = None, audit_keys: AuditKeys | None = None
    ) -> None:
        self.audit_keys = audit_keys or AuditKeys()
        self.on_audit: Callable[[int], None] = lambda _: None
        """Called with the number of audit records of each committed transaction."""
        self.quotas: Quotas | None = None
        """Checked by every write; None: there are none."""
        self.policy_of: Callable[[str], TenantPolicy] = _no_policy
        """Policy in force of a tenant; every session has it in `info[POLICY_OF]`."""
        self._config = config or DatabaseConfig()
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writing = threading.Lock()
        self.compacted_us = 0
        """When this process last began to compact all tables; 0: it did not."""
        self.constants: dict[str, bytes] = {}
        """Settings that never change, for every session (`session.info["constants"]`)."""
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
            session.info[POLICY_OF] = self.policy_of
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction; commits when the block ends, rolls back when it raises."""
        with _translated(), self._write_slot(), self.engine.connect() as plain:
            connection = plain.execution_options(memos_writes=True)
            with Session(connection, expire_on_commit=False) as session:
                session.info[AuditKeys] = self.audit_keys
                session.info["constants"] = self.constants
                session.info[Quotas] = self.quotas
                session.info[POLICY_OF] = self.policy_of
                is_committed = False
                try:
                    with session.begin():
                        yield session
                    is_committed = True
                finally:
                    if self.quotas is not None:
                        self.quotas.ended(session, is_committed)
            if written := session.info.get(WRITTEN):
                self.on_audit(written)

    @contextmanager
    def exclusive(self) -> Iterator[Any]:
        """A DBAPI connection outside of any transaction, while no other write of this process runs."""
        with _translated(), self._write_slot():
            plain = self.engine.raw_connection()
            try:
                if not self.is_sqlite:
                    plain.dbapi_connection.autocommit = True  # type: ignore[union-attr]
                yield plain.dbapi_connection
            finally:
                plain.invalidate()

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
        head, known = _revisions()
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
                if current == head:
                    return
                if running := _running(connection):
                    raise ConfigError(
                        f"{running} servers of an older version run on the database {self.url!r}: stop them "
                        "before this version changes its schema (one that was killed counts for "
                        f"{LIVE_SECONDS:.0f} s)"
                    )
                config = alembic_config()
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")

    def secret(self, name: str) -> bytes:
        """32 random bytes under a name, made on first use and the same for every replica.

        Of several, which a rotation leaves (`secret_ring`), the newest.
        """
        with self.write() as session:
            insert_absent(session, SettingRow, key=name, value=secrets.token_hex(32))
            return bytes.fromhex(session.get_one(SettingRow, name).value.split()[0])

    def dispose(self) -> None:
        self.engine.dispose()


def _running(connection: Connection) -> int:
    """Number of servers that have said a moment ago that they run (`replicas`)."""
    if not inspect(connection).has_table("replicas"):
        return 0
    since = now_us() - int(LIVE_SECONDS * 1_000_000)
    query = text("SELECT count(*) FROM replicas WHERE seen_us > :since")
    return int(connection.execute(query, {"since": since}).scalar_one())


def alembic_config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@functools.cache
def _revisions() -> tuple[str | None, frozenset[str]]:
    """Newest revision of the schema, and all that this version of the code knows."""
    scripts = ScriptDirectory.from_config(alembic_config())
    known = frozenset(script.revision for script in scripts.walk_revisions())
    return scripts.get_current_head(), known


def _no_policy(tenant: str) -> TenantPolicy:
    return TenantPolicy()


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
