"""Server processes that share one database: each says every few seconds that it runs, and what it is.

One that would read or write the shared memory in another way than those that run does not join them. An
erasure is done when each has said that it knows of it.

A process that was killed leaves its row behind.  On the same machine it is known to be gone, on another one
it counts as running for `LIVE_SECONDS`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping

import psutil
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import new_id, now_us
from memos_vllm.errors import ConfigError, VaultUnavailable
from memos_vllm.vault.database import LIVE_SECONDS, Database
from memos_vllm.vault.replica_tables import ReplicaRow

log = logging.getLogger(__name__)
BEAT_SECONDS = 2.0
_FORGOTTEN_SECONDS = 86400.0
_JOIN_LOCK = 0x6D656D6F72
_SAME_PROCESS_US = 2_000_000
"""Start times of a process differ by less, as they are read from a clock that is adjusted."""


class Replicas:
    def __init__(self, database: Database, learnt: Callable[[], int]) -> None:
        """
        Args:
            learnt: serial number of the last erasure of whose person this process caches nothing.
        """
        self._database, self._learnt = database, learnt
        self._id = new_id("replica")
        self._traits: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def join(self, traits: Mapping[str, str]) -> None:
        """Join the processes that serve from this database, until `leave`.

        Args:
            traits: what all of them have to have in common, by its name in a message.
        Raises:
            ConfigError: it differs from one that runs, and says in what.
            VaultUnavailable
        """
        self._traits = dict(traits)
        with self._database.write() as session:
            if not self._database.is_sqlite:
                session.execute(select(func.pg_advisory_xact_lock(_JOIN_LOCK)))
            for other in _live(session):
                if differing := _differences(self._traits, other.traits):
                    raise ConfigError(
                        f"this server shares its database with the process {other.pid} on "
                        f"{other.host}, and differs from it: {differing}. Give both the same, or stop "
                        f"the other one (a process that was killed counts for {LIVE_SECONDS:.0f} s)"
                    )
            self._beat(session)
        self._thread = threading.Thread(target=self._run, name="memos-replicas", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        try:
            with self._database.write() as session:
                session.execute(delete(ReplicaRow).where(ReplicaRow.id == self._id))
        except VaultUnavailable as error:
            log.warning("this process counts as running for %.0f s: %s", LIVE_SECONDS, error)

    def count(self) -> int:
        """Number of processes that run. Raises VaultUnavailable."""
        with self._database.read() as session:
            return len(_live(session))

    def unaware(self, serial: int) -> list[str]:
        """Processes that run and do not know of an erasure yet, as `host:pid`. Raises VaultUnavailable."""
        with self._database.read() as session:
            return [f"{row.host}:{row.pid}" for row in _live(session) if row.learnt < serial]

    def _run(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                with self._database.write() as session:
                    self._beat(session)
            except VaultUnavailable as error:
                log.warning("other servers do not hear of this one: %s", error)

    def _beat(self, session: Session) -> None:
        now = now_us()
        session.merge(
            ReplicaRow(
                id=self._id,
                host=socket.gethostname(),
                pid=os.getpid(),
                begun_us=_begun_us(os.getpid()),
                seen_us=now,
                traits=self._traits,
                learnt=self._learnt(),
            )
        )
        old = now - int(_FORGOTTEN_SECONDS * 1_000_000)
        session.execute(delete(ReplicaRow).where(ReplicaRow.seen_us < old))


def _live(session: Session) -> list[ReplicaRow]:
    """Processes that were seen a moment ago, and are not known to have ended."""
    since = now_us() - int(LIVE_SECONDS * 1_000_000)
    rows = session.scalars(select(ReplicaRow).where(ReplicaRow.seen_us > since))
    return [row for row in rows if not _has_ended(row)]


def _has_ended(row: ReplicaRow) -> bool:
    if row.host != socket.gethostname():
        return False
    try:
        return abs(_begun_us(row.pid) - row.begun_us) > _SAME_PROCESS_US
    except psutil.NoSuchProcess:
        return True


def _begun_us(pid: int) -> int:
    return int(psutil.Process(pid).create_time() * 1_000_000)


def _differences(own: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    return "; ".join(
        f"its {name} is {own[name]}, there it is {theirs[name]}"
        for name in own
        if name in theirs and own[name] != theirs[name]
    )
