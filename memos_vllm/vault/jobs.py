"""The durable queue: one row per job that waits, runs under a lease, or was set aside.

    queued ──claim──▶ running ──done──▶ (row deleted)
       ▲                 │ error: retry after a pause that grows with the attempts
       ├─────────────────┤ lease ended (its process died): the next claim takes it
       │                 ▼ error or lost lease in the last attempt
       └─────retry────── failed: stays, logged and counted, and is not claimed (`set_aside`)

A job is added in the transaction that makes it necessary (`add_in`).  It carries the id of its subject,
never content: deleting the subject in the vault deletes it everywhere.  A claim gives a job to one
holder for `LEASE_SECONDS`; the holder extends the lease while it works (`Leases`).  A job can still run
twice (a process that paused for longer than its lease), so handlers are idempotent.

The columns hold the class of the last error, not its message, which may quote memory.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from memos_vllm import metrics
from memos_vllm.cube.ids import new_id, now_us
from memos_vllm.errors import VaultUnavailable
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import JobRow

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""A running job whose lease was not extended for so long is claimed by the next worker."""
MAX_ATTEMPTS = 8
_BACKOFF_BASE, _BACKOFF_MAX_SECONDS = 4.0, 3600.0
"""Pauses of 1, 4, 16, … seconds, at most an hour: eight attempts bridge an outage of 80 minutes."""
LOST = "lease lost"
"""Stands for the error of an attempt whose process died."""

REMEMBER, READ, TRANSFORM, PURGE = "remember", "read", "transform", "purge"
ERASE = "erase"
SWEEP, RESTORE, STORE = "sweep", "restore", "store"
HEADS = "heads"


class Lane(StrEnum):
    """Jobs of one lane never wait for those of another."""

    FAST = "fast"
    SLOW = "slow"
    """Jobs that wait for a model: one at a time in each process."""
    TRANSFORM = "transform"
    ERASE = "erase"
    UPKEEP = "upkeep"
    """Sweeps and restores: long, and no request waits for them."""
    KV = "kv"
    """Jobs that need an engine with activation memory: no other process has workers for them."""


LANES = {
    REMEMBER: Lane.FAST,
    PURGE: Lane.FAST,
    READ: Lane.SLOW,
    TRANSFORM: Lane.TRANSFORM,
    ERASE: Lane.ERASE,
    SWEEP: Lane.UPKEEP,
    RESTORE: Lane.UPKEEP,
    STORE: Lane.UPKEEP,
    HEADS: Lane.KV,
}


class JobRowState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A claimed or failed job."""

    id: str
    name: str
    subject: str
    attempts: int
    """Claims so far, this one included."""
    holder: str
    error: str
    """Class of the last attempt's error; empty: none failed."""

    @property
    def exhausted(self) -> bool:
        return self.attempts > MAX_ATTEMPTS


class JobStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    # -- adding -----------------------------------------------------------------------------------

    def add(self, name: str, subject: str) -> None:
        """Queue a job, once per name and subject: a job that exists already stays as it is."""
        with self._database.write() as session:
            self.add_in(session, name, subject)

    def renew(self, name: str, subject: str) -> None:
        """`add`, also where the job was set aside: it is queued again."""
        with self._database.write() as session:
            self.renew_in(session, name, subject)

    @staticmethod
    def renew_in(session: Session, name: str, subject: str) -> None:
        """`renew`, as part of the caller's transaction."""
        session.execute(
            update(JobRow)
            .where(JobRow.name == name, JobRow.subject == subject)
            .where(JobRow.state == JobRowState.FAILED)
            .values(state=JobRowState.QUEUED, attempts=0, not_before_us=0)
        )
        JobStore.add_in(session, name, subject)

    @staticmethod
    def add_in(session: Session, name: str, subject: str) -> None:
        """`add`, as part of the caller's transaction."""
        values: dict[str, Any] = {
            "id": new_id("task"),
            "lane": LANES[name],
            "name": name,
            "subject": subject,
            "state": JobRowState.QUEUED,
            "attempts": 0,
            "not_before_us": 0,
            "leased_until_us": 0,
            "holder": "",
            "error": "",
            "created_us": now_us(),
        }
        insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        session.execute(
            insert(JobRow).values(values).on_conflict_do_nothing(index_elements=["name", "subject"])
        )

    # -- for workers ------------------------------------------------------------------------------

    def has_due(self, lane: Lane) -> bool:
        """Whether a job can be claimed now. A read: polling an idle queue takes no write lock."""
        with self._database.read() as session:
            return session.scalar(select(JobRow.id).where(*_due(lane)).limit(1)) is not None

    def claim(self, lane: Lane, holder: str) -> Job | None:
        """Lease the lane's oldest job that is due, or None.

        A job whose process died in its last attempt is set aside on the way.
        """
        if not self.has_due(lane):
            return None
        with self._database.write() as session:
            while (job := self.claim_in(session, lane, holder)) is not None and job.exhausted:
                self.fail_in(session, job)
        return job

    @staticmethod
    def claim_in(
        session: Session, lane: Lane, holder: str, subject: str | None = None
    ) -> Job | None:
        """`claim`, as part of the caller's transaction; the caller sets `exhausted` jobs aside.

        Args:
            subject: claim the job of this subject only, and do not wait for its pause to end.
        """
        due = select(JobRow).where(*_due(lane, subject))
        query = due.order_by(JobRow.created_us, JobRow.id).limit(1)
        row = session.scalar(query.with_for_update(skip_locked=True))
        if row is None:
            return None
        if row.state == JobRowState.RUNNING:
            row.error = LOST
        row.state, row.holder = JobRowState.RUNNING, holder
        row.leased_until_us = _lease_end()
        row.attempts += 1
        session.flush()
        return _model(row)

    def extend(self, jobs: list[Job]) -> None:
        """Lease the jobs for another `LEASE_SECONDS`, unless another holder has taken them."""
        with self._database.write() as session:
            for job in jobs:
                self.extend_in(session, job)

    @staticmethod
    def extend_in(session: Session, job: Job) -> bool:
        """False: the job was deleted, or another holder has it."""
        extended = session.execute(
            update(JobRow).where(*_held(job)).values(leased_until_us=_lease_end())
        )
        return bool(extended.rowcount)  # type: ignore[attr-defined]  # CursorResult, for an UPDATE

    def done(self, job: Job) -> None:
        with self._database.write() as session:
            session.execute(delete(JobRow).where(*_held(job)))

    def postpone(self, job: Job, seconds: float) -> None:
        """Queue a job for later, without counting its attempt."""
        with self._database.write() as session:
            self.release_in(session, job, seconds)

    def retry(self, job: Job, error: str) -> None:
        """Queue a job again after a pause, or set it aside after `MAX_ATTEMPTS`."""
        with self._database.write() as session:
            self.retry_in(session, job, error)

    @classmethod
    def retry_in(cls, session: Session, job: Job, error: str) -> bool:
        """`retry`, as part of the caller's transaction. False: it was set aside, or the lease is lost."""
        if job.attempts >= MAX_ATTEMPTS:
            cls.fail_in(session, dataclasses.replace(job, error=error))
            return False
        queued = session.execute(
            update(JobRow)
            .where(*_held(job))
            .values(
                state=JobRowState.QUEUED,
                not_before_us=now_us() + round(backoff_seconds(job.attempts) * 1_000_000),
                leased_until_us=0,
                holder="",
                error=error,
            )
        )
        return bool(queued.rowcount)  # type: ignore[attr-defined]  # CursorResult, for an UPDATE

    @staticmethod
    def fail_in(session: Session, job: Job) -> None:
        """Set a job aside: it stays visible in `failed` until `retry_failed` queues it again."""
        failed = session.execute(
            update(JobRow)
            .where(*_held(job))
            .values(state=JobRowState.FAILED, leased_until_us=0, holder="", error=job.error)
        )
        if failed.rowcount:  # type: ignore[attr-defined]  # CursorResult, for an UPDATE
            metrics.JOBS_SET_ASIDE.labels(job.name).inc()
            log.error(
                "job %s %s is set aside after %d attempts: %s",
                job.name,
                job.subject,
                min(job.attempts, MAX_ATTEMPTS),
                job.error,
            )

    @staticmethod
    def release_in(session: Session, job: Job, after_seconds: float = 0.0) -> bool:
        """Queue an interrupted job without counting its attempt. False: the lease is lost."""
        released = session.execute(
            update(JobRow)
            .where(*_held(job))
            .values(
                state=JobRowState.QUEUED,
                attempts=JobRow.attempts - 1,
                not_before_us=now_us() + round(after_seconds * 1_000_000),
                leased_until_us=0,
                holder="",
            )
        )
        return bool(released.rowcount)  # type: ignore[attr-defined]  # CursorResult, for an UPDATE

    @staticmethod
    def postpone_in(session: Session, name: str, subject: str, seconds: float) -> None:
        """Queue the job of a subject again, also while it runs, without counting its attempts.

        The holder of a running job finds at its end that it holds the job no more.
        """
        session.execute(
            update(JobRow)
            .where(JobRow.name == name, JobRow.subject == subject)
            .values(
                state=JobRowState.QUEUED,
                attempts=0,
                not_before_us=now_us() + round(seconds * 1_000_000),
                leased_until_us=0,
                holder="",
            )
        )

    @staticmethod
    def drop_in(session: Session, name: str, subject: str) -> None:
        """Delete the job of a subject that has ended or was deleted, leased or not."""
        session.execute(delete(JobRow).where(JobRow.name == name, JobRow.subject == subject))

    # -- for operators ----------------------------------------------------------------------------

    def counts(self) -> dict[tuple[str, str], int]:
        """Jobs by lane and state."""
        query = select(JobRow.lane, JobRow.state, func.count()).group_by(JobRow.lane, JobRow.state)
        with self._database.read() as session:
            return {(lane, state): count for lane, state, count in session.execute(query)}

    def failed(self) -> list[Job]:
        """Jobs that were set aside, oldest first."""
        query = (
            select(JobRow)
            .where(JobRow.state == JobRowState.FAILED)
            .order_by(JobRow.created_us, JobRow.id)
        )
        with self._database.read() as session:
            return [_model(row) for row in session.scalars(query)]

    def retry_failed(self) -> int:
        """Queue all jobs again that were set aside; returns how many."""
        with self._database.write() as session:
            queued = session.execute(
                update(JobRow)
                .where(JobRow.state == JobRowState.FAILED)
                .values(state=JobRowState.QUEUED, attempts=0, not_before_us=0)
            )
            return int(queued.rowcount)  # type: ignore[attr-defined]  # CursorResult


class Leases:
    """A thread that extends the leases of jobs which this process runs, three times per lease."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._jobs: set[Job] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def held(self, job: Job) -> Iterator[None]:
        """The job's lease is extended inside the block."""
        with self._lock:
            self._jobs.add(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="memos-leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._jobs.discard(job)

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 3):
            with self._lock:
                jobs = list(self._jobs)
            try:
                if jobs:
                    self._store.extend(jobs)
            except VaultUnavailable as error:
                log.warning("leases of %d jobs are not extended: %s", len(jobs), error)


def new_holder() -> str:
    """Name of a holder of leases, unique for each worker of each process."""
    return f"{socket.gethostname()[:64]}:{os.getpid()}:{secrets.token_hex(8)}"


def backoff_seconds(attempts: int) -> float:
    """Pause after a job has failed so many times."""
    return float(min(_BACKOFF_BASE ** (attempts - 1), _BACKOFF_MAX_SECONDS))


def _lease_end() -> int:
    return now_us() + round(LEASE_SECONDS * 1_000_000)


def _due(lane: Lane, subject: str | None = None) -> list[ColumnElement[bool]]:
    moment = now_us()
    waits = JobRow.state == JobRowState.QUEUED
    if subject is None:
        waits = and_(waits, JobRow.not_before_us <= moment)
    abandoned = and_(JobRow.state == JobRowState.RUNNING, JobRow.leased_until_us <= moment)
    due = [JobRow.lane == lane, or_(waits, abandoned)]
    return due if subject is None else [*due, JobRow.subject == subject]


def _held(job: Job) -> list[ColumnElement[bool]]:
    return [
        JobRow.id == job.id,
        JobRow.holder == job.holder,
        JobRow.state == JobRowState.RUNNING,
    ]


def _model(row: JobRow) -> Job:
    return Job(row.id, row.name, row.subject, row.attempts, row.holder, row.error)
