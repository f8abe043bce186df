"""What was forgotten and can still be undone: one job per changed cube, which ends it.

A forgotten cube keeps its older versions until its job `purge` is due.  Until then undoing restores the
items from the version before; the job deletes that version, all older ones and their files.  The job is
written in the transaction that forgets, and deleted in the one that undoes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import CubeId, PersonId, Sha256, TenantId, now_us, to_us
from memos_vllm.cube.model import State
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit, response_texts, responses
from memos_vllm.vault.database import Database
from memos_vllm.vault.items import touch_owner
from memos_vllm.vault.jobs import PURGE, JobStore
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow, ForgettingRow, JobRow, VersionRow

_HELD_SECONDS = 3600.0
"""Interval of looking whether the hold of a frozen cube was lifted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Forgotten:
    """One cube that lost text."""

    undo: str
    cube: CubeId
    version: str
    """The version before, which still has the text."""
    state: State
    """State of the cube before."""

    @property
    def subject(self) -> str:
        return f"{self.undo}:{self.cube}:{self.version}:{self.state}"

    @classmethod
    def parse(cls, subject: str) -> Forgotten:
        undo, cube, version, state = subject.split(":")
        return cls(undo, CubeId(cube), version, State(state))


class ForgottenStore:
    def __init__(self, database: Database, payloads: PayloadStore) -> None:
        self._database, self._payloads = database, payloads

    @staticmethod
    def recording(
        principal: Principal, forgotten: Forgotten, items: int, seconds: float
    ) -> Callable[[Session], None]:
        """What to do in the transaction that forgets: audit it, and queue the end of the undo.

        Args:
            items: number of items that lost text.
            seconds: until the older versions are deleted.
        """

        def record(session: Session) -> None:
            JobStore.add_in(session, PURGE, forgotten.subject)
            session.execute(
                update(JobRow)
                .where(JobRow.name == PURGE, JobRow.subject == forgotten.subject)
                .values(not_before_us=now_us() + round(seconds * 1_000_000))
            )
            before = session.get_one(VersionRow, forgotten.version)
            session.add(
                ForgettingRow(
                    undo=forgotten.undo,
                    cube_id=forgotten.cube,
                    tenant=principal.tenant,
                    person=principal.person,
                    sequence=before.sequence,
                    at_us=now_us(),
                )
            )
            detail = {"undo": forgotten.undo, "items": items, "version": forgotten.version}
            audit.record(session, principal, "memory.forget", forgotten.cube, detail)

        return record

    @staticmethod
    def undoing(principal: Principal, forgotten: Forgotten) -> Callable[[Session], None]:
        """What to do in the transaction that restores: audit it, and drop the job."""

        def record(session: Session) -> None:
            JobStore.drop_in(session, PURGE, forgotten.subject)
            session.execute(
                delete(ForgettingRow).where(
                    ForgettingRow.undo == forgotten.undo, ForgettingRow.cube_id == forgotten.cube
                )
            )
            detail = {"undo": forgotten.undo, "version": forgotten.version}
            audit.record(session, principal, "memory.undo", forgotten.cube, detail)

        return record

    def undoable(self, principal: Principal, undo: str) -> list[Forgotten]:
        """Cubes of the person that this order changed; empty: unknown, of another person, or too late."""
        query = select(JobRow.subject).where(
            JobRow.name == PURGE,
            JobRow.subject.startswith(f"{undo}:", autoescape=True),
            JobRow.not_before_us > now_us(),
        )
        with self._database.read() as session:
            found = [Forgotten.parse(subject) for subject in session.scalars(query)]
            return [each for each in found if _is_own(principal, session.get(CubeRow, each.cube))]

    def settle(self, change: Callable[[Session], None]) -> None:
        """Do what `recording` or `undoing` returned, for a cube that itself stays as it is."""
        with self._database.write() as session:
            change(session)

    def forget_replies(
        self, principal: Principal, conversation: str, request_ids: Collection[str]
    ) -> None:
        """Delete a conversation of `/v1/responses`, if there is one, and stored replies by their ids."""
        with self._database.write() as session:
            responses.delete_replies(session, principal, conversation, request_ids)

    def forget_all_replies(self, principal: Principal, until: datetime | None) -> None:
        """Delete the person's stored replies, and empty the conversations of `/v1/responses`.

        Args:
            until: what was made later stays; None: now.
        """
        with self._database.write() as session:
            at = now_us() if until is None else to_us(until)
            if count := responses.delete_all(session, principal, at):
                audit.record(session, principal, "responses.delete", "all", {"count": count})

    def cut_replies(self, principal: Principal, lost: Collection[str]) -> None:
        """Cut forgotten texts out of the person's stored replies and conversations, for good."""
        with self._database.write() as session:
            if count := response_texts.cut_out(session, principal, lost, now_us()):
                audit.record(session, principal, "responses.cut", "all", {"count": count})

    def session_deleted(self, principal: Principal, items: int, undo: str | None) -> None:
        """Audit the deletion of a session, whose name stays out of the log.

        Args:
            items: number of items that went with it.
            undo: id that takes it back; None: nothing does.
        """
        with self._database.write() as session:
            detail = {"person": principal.person, "items": items, "undo": undo}
            audit.record(session, principal, "session.delete", "session", detail)

    def hasten(self, forgotten: Forgotten) -> None:
        """End the time to undo: the job `purge` is due now."""
        with self._database.write() as session:
            session.execute(
                update(JobRow)
                .where(JobRow.name == PURGE, JobRow.subject == forgotten.subject)
                .values(not_before_us=now_us())
            )

    def purge(self, subject: str) -> tuple[Principal, Forgotten] | None:
        """Delete the version with the forgotten text and all older ones; idempotent.

        Returns:
            The owner of the cube; None: the cube was deleted, or it is frozen, and the job comes later.
        """
        forgotten = Forgotten.parse(subject)
        with self._database.write() as session:
            row = session.get(CubeRow, forgotten.cube, with_for_update=True)
            if row is None:
                return None
            if row.state == State.FROZEN:  # the hold also keeps what was forgotten before it
                JobStore.postpone_in(session, PURGE, subject, _HELD_SECONDS)
                return None
            tenant, last = TenantId(row.tenant), session.get(VersionRow, forgotten.version)
            owner = Principal(tenant, Role.WRITER, "forget", PersonId(row.person))
            of_cube = select(VersionRow).where(VersionRow.cube_id == row.id)
            gone: set[str] = set()
            if last is not None:
                old = VersionRow.sequence <= min(last.sequence, row.head_sequence - 1)
                versions = list(session.scalars(of_cube.where(old)))
                gone = {each.payload_sha256 for each in versions}
                touch_owner(session, row, size=-sum(each.payload_bytes for each in versions))
                session.execute(delete(VersionRow).where(VersionRow.cube_id == row.id, old))
                detail = {"undo": forgotten.undo, "to": last.sequence}
                audit.record(session, owner, "cube.purge", row.id, detail)
            kept = {each.payload_sha256 for each in session.scalars(of_cube)}
        for digest in gone - kept:
            self._payloads.delete(tenant, forgotten.cube, Sha256(digest))
        return owner, forgotten


def _is_own(principal: Principal, row: CubeRow | None) -> bool:
    return row is not None and (row.tenant, row.person) == (principal.tenant, principal.person)
