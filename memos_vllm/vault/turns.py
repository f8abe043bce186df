"""Turns of conversation that were answered and are not yet memory.

A turn and its `remember` job are written in one transaction before the end of the reply is sent.  The
transaction that makes the turn memory deletes its row, so a job that runs twice does its work once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import PersonId, TenantId, new_id, now_us
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import fence
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import REMEMBER, JobStore
from memos_vllm.vault.tables import ItemRow, PendingTurnRow


class TurnIsMemory(Exception):
    """Another run of the job was faster; the transaction of this one is rolled back."""


@dataclasses.dataclass(frozen=True, slots=True)
class PendingTurn:
    id: str
    principal: Principal
    body: dict[str, Any]
    created_us: int


class PendingTurns:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        principal: Principal,
        body: dict[str, Any],
        turn_id: str | None = None,
        is_repeated: bool = False,
    ) -> str:
        """Store a turn and queue its `remember` job; returns the turn's id, which sorts by time.

        Args:
            turn_id: made by `new_id`; None: a new one.
            is_repeated: an earlier call raised VaultUnavailable, maybe after its commit: a turn that waits,
                or is memory already, is not stored twice.

        Raises:
            Forbidden: the role is `reader`.
            Erased: the turn began before the person was erased.
        """
        principal.require(Role.WRITER)
        row = PendingTurnRow(
            id=turn_id or new_id("turn"),
            tenant=principal.tenant,
            person=principal.person,
            body={
                "session": principal.session,
                "key": principal.key_id,
                "persona": principal.persona,
                **body,
            },
            created_us=now_us(),
        )
        turn = row.id
        try:
            with self._database.write() as session:
                fence.check(session, principal, principal.person)
                if is_repeated and _is_stored(session, row):
                    return turn
                session.add(row)
                JobStore.add_in(session, REMEMBER, turn)
        except IntegrityError:
            if not is_repeated:
                raise  # else the other call was faster
        return turn

    def get(self, turn_id: str) -> PendingTurn | None:
        """The turn, or None: it has become memory already, or was forgotten."""
        with self._database.read() as session:
            epoch = fence.serial(session)
            row = session.get(PendingTurnRow, turn_id)
            if row is None:
                return None
            principal = Principal(
                tenant=TenantId(row.tenant),
                role=Role.WRITER,
                key_id=row.body["key"],
                person=PersonId(row.person),
                session=row.body["session"],
                persona=row.body.get("persona"),
                epoch=epoch,
            )
            return PendingTurn(row.id, principal, dict(row.body), row.created_us)

    def done(self, turn_id: str) -> None:
        """Delete a turn that leaves nothing to remember."""
        with self._database.write() as session:
            session.execute(delete(PendingTurnRow).where(PendingTurnRow.id == turn_id))

    def drop(self, principal: Principal, chosen: Callable[[Mapping[str, Any]], bool]) -> None:
        """Delete a person's turns that are not yet memory.

        Args:
            chosen: whether to delete the turn with this body.
        """
        with self._database.write() as session:
            rows = session.scalars(
                select(PendingTurnRow).where(
                    PendingTurnRow.tenant == principal.tenant,
                    PendingTurnRow.person == principal.person,
                )
            )
            for row in rows:
                if chosen(row.body):
                    session.delete(row)

    @staticmethod
    def deletion_of(turn_id: str) -> Callable[[Session], None]:
        """Delete the turn in the transaction that makes it memory (`MemVault.create`, `.update`)."""

        def delete_turn(session: Session) -> None:
            done = session.execute(delete(PendingTurnRow).where(PendingTurnRow.id == turn_id))
            if done.rowcount == 0:  # type: ignore[attr-defined]  # CursorResult, for a DELETE
                raise TurnIsMemory(turn_id)

        return delete_turn

    def waiting(self) -> list[str]:
        """Ids of the turns that are not yet memory, oldest first."""
        with self._database.read() as session:
            return list(session.scalars(select(PendingTurnRow.id).order_by(PendingTurnRow.id)))

    def said_since(self, principal: Principal, since_us: int) -> dict[str, str]:
        """What the person said in turns since a moment that are not yet memory, by their ids."""
        query = select(PendingTurnRow.id, PendingTurnRow.body).where(
            PendingTurnRow.created_us > since_us,
            PendingTurnRow.tenant == principal.tenant,
            PendingTurnRow.person == principal.person,
        )
        with self._database.read() as session:
            return {turn: str(body["user"]) for turn, body in session.execute(query)}

    def waiting_of(self, principal: Principal) -> list[str]:
        """`waiting`, of one person."""
        query = select(PendingTurnRow.id).where(
            PendingTurnRow.tenant == principal.tenant, PendingTurnRow.person == principal.person
        )
        with self._database.read() as session:
            return list(session.scalars(query.order_by(PendingTurnRow.id)))


def _is_stored(session: Session, row: PendingTurnRow) -> bool:
    """Whether a turn waits, or the owner has an item of it: of its request and its time, as clients may
    use the id of a request again."""
    if session.get(PendingTurnRow, row.id) is not None:
        return True
    made = select(ItemRow.id).where(
        ItemRow.tenant == row.tenant,
        ItemRow.person == row.person,
        ItemRow.time_us == row.body["at_us"],
        ItemRow.source.startswith(f"{row.body['request_id']}:", autoescape=True),
    )
    return session.scalar(made.limit(1)) is not None
