"""What was forgotten and can still be undone: one job per changed cube, which ends it.

A forgotten cube keeps its older versions until its job `purge` is due.  Until then undoing restores the
items from the version before; the job deletes that version, all older ones and their files.  The job is
written in the transaction that forgets, and deleted in the one that undoes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import CubeId, PersonId, Sha256, TenantId, now_us
from memos_vllm.cube.model import State
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import PURGE, JobStore
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow, JobRow, VersionRow


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
            detail = {"undo": forgotten.undo, "items": items, "version": forgotten.version}
            audit.record(session, principal, "memory.forget", forgotten.cube, detail)

        return record

    @staticmethod
    def undoing(principal: Principal, forgotten: Forgotten) -> Callable[[Session], None]:
        """What to do in the transaction that restores: audit it, and drop the job."""

        def record(session: Session) -> None:
            JobStore.drop_in(session, PURGE, forgotten.subject)
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

    def purge(self, subject: str) -> tuple[Principal, Forgotten] | None:
        """Delete the version with the forgotten text and all older ones; idempotent.

        Returns:
            The owner of the cube; None: the cube was deleted.
        """
        forgotten = Forgotten.parse(subject)
        with self._database.write() as session:
            row = session.get(CubeRow, forgotten.cube)
            if row is None:
                return None
            tenant, last = TenantId(row.tenant), session.get(VersionRow, forgotten.version)
            owner = Principal(tenant, Role.WRITER, "forget", PersonId(row.person))
            of_cube = select(VersionRow).where(VersionRow.cube_id == row.id)
            gone: set[str] = set()
            if last is not None:
                old = VersionRow.sequence <= min(last.sequence, row.head_sequence - 1)
                gone = {each.payload_sha256 for each in session.scalars(of_cube.where(old))}
                session.execute(delete(VersionRow).where(VersionRow.cube_id == row.id, old))
                detail = {"undo": forgotten.undo, "to": last.sequence}
                audit.record(session, owner, "cube.purge", row.id, detail)
            kept = {each.payload_sha256 for each in session.scalars(of_cube)}
        for digest in gone - kept:
            self._payloads.delete(tenant, forgotten.cube, Sha256(digest))
        return owner, forgotten


def _is_own(principal: Principal, row: CubeRow | None) -> bool:
    return row is not None and (row.tenant, row.person) == (principal.tenant, principal.person)
