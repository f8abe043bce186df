"""State of `/v1/responses`: stored replies, what they answer, and conversations.

Each row belongs to a person of a tenant; where a request names no person, to the key that made it. What
belongs to another is not found. A reply points to the one before it, so a conversation is stored once,
however often it is continued, and a reply can be taken out of the middle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, delete, literal, or_, select, update
from sqlalchemy.orm import Session, aliased

from memos_vllm.cube.ids import new_id, now_us
from memos_vllm.errors import NotFound, QuotaExceeded
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.redaction.redactor import Redactors
from memos_vllm.vault import fence
from memos_vllm.vault.audit import record
from memos_vllm.vault.database import Database
from memos_vllm.vault.quotas import Quotas, Use, admitted
from memos_vllm.vault.response_tables import ConversationRow, ResponseRow
from memos_vllm.vault.response_texts import is_mine, mapped, owner_of
from memos_vllm.vault.response_use import charge, give_back, size_of

Items = list[dict[str, Any]]
"""Items of a conversation, as in the bodies of `/v1/responses`."""
LONGEST_CHAIN = 10_000
"""Replies of one conversation that are sent to the model; the context ends it earlier."""
_PURGE_EVERY = 64
_DAY_US = 24 * 3600 * 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class StoredResponse:
    id: str
    conversation: str | None
    previous: str | None
    input: Items
    response: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    id: str
    created_us: int
    metadata: dict[str, Any]


class ResponseStore:
    def __init__(self, database: Database, keep_days: float, redactors: Redactors) -> None:
        """
        Args:
            keep_days: how long a reply outside a conversation is kept.
            redactors: take out of each text what the tenant's policy keeps out of memory.
        """
        self._database = database
        self._redactors = redactors
        self._keep_us = int(keep_days * _DAY_US)
        self._writes = 0

    def put(self, principal: Principal, stored: StoredResponse) -> bool:
        """Store a reply; False: its conversation was deleted meanwhile.

        It was admitted by `check_room`: a quota that is full by now does not refuse it.
        """
        now = now_us()
        self._writes += 1
        if self._writes % _PURGE_EVERY == 1:
            self._purge()
        given, answer = (
            self._clean(principal, stored.input),
            self._clean(principal, stored.response),
        )
        with admitted(), self._database.write() as session:
            fence.check(session, principal, principal.person)
            if stored.conversation is not None and not _conversation(
                session, principal, stored.conversation, lock=True
            ):
                return False
            session.add(
                ResponseRow(
                    id=stored.id,
                    **owner_of(principal),
                    conversation=stored.conversation,
                    previous=stored.previous,
                    created_us=now,
                    expires_us=None if stored.conversation else now + self._keep_us,
                    input=given,
                    response=answer,
                    bytes=(size := size_of(given, answer)),
                )
            )
            session.flush()
            charge(session, principal.tenant, principal.person, 1, size)
        return True

    def check_room(self, principal: Principal, given: Items) -> None:
        """Look whether a reply has room, before it is computed.

        Args:
            given: what the reply will answer.

        Raises:
            QuotaExceeded: the message says which quota is full, and the way out.
        """
        quotas: Quotas | None = self._database.quotas
        if quotas is None:
            return
        change = Use(responses=1, response_bytes=size_of(given))
        if quotas.full(self._database, principal, change) is None:
            return
        self._purge()  # replies that have expired give way first
        if problem := quotas.full(self._database, principal, change):
            raise QuotaExceeded(problem)

    def get(self, principal: Principal, response_id: str) -> StoredResponse:
        """Raises NotFound: unknown, deleted, expired, or of another owner."""
        with self._database.read() as session:
            return _stored(_response(session, principal, response_id))

    def history(self, principal: Principal, response_id: str) -> Items:
        """The conversation up to a reply and with it, oldest first.

        Raises:
            NotFound: as for `get`.
        """
        mine = is_mine(ResponseRow, principal)
        with self._database.read() as session:
            _response(session, principal, response_id)
            chain = (
                select(ResponseRow.id, ResponseRow.previous, literal(0).label("depth"))
                .where(ResponseRow.id == response_id, mine)
                .cte("chain", recursive=True)
            )
            before = aliased(ResponseRow)
            chain = chain.union_all(
                select(before.id, before.previous, chain.c.depth + 1)
                .join(chain, before.id == chain.c.previous)
                .where(is_mine(before, principal), chain.c.depth < LONGEST_CHAIN)
            )
            rows = session.scalars(
                select(ResponseRow)
                .join(chain, ResponseRow.id == chain.c.id)
                .order_by(chain.c.depth.desc())
            )
            return [item for row in rows for item in _items(row)]

    def delete(self, principal: Principal, response_id: str) -> None:
        """Delete a reply with what it answers; what continues it continues the one before.

        Raises:
            NotFound: as for `get`.
        """
        with self._database.write() as session:
            row = _response(session, principal, response_id)
            session.execute(
                update(ResponseRow)
                .where(ResponseRow.previous == row.id)
                .values(previous=row.previous)
            )
            _drop(session, ResponseRow.id == row.id)
            record(session, principal, "response.delete", response_id, {"person": principal.person})

    def create(self, principal: Principal, metadata: dict[str, Any], items: Items) -> Conversation:
        """Make a conversation.

        Args:
            items: that it begins with.

        Raises:
            QuotaExceeded
        """
        row = ConversationRow(
            id=new_id("conv"),
            **owner_of(principal),
            created_us=now_us(),
            details=self._clean_values(principal, metadata),
            items=self._clean(principal, items),
        )
        row.bytes = size_of(row.details, row.items)
        with self._database.write() as session:
            fence.check(session, principal, principal.person)
            session.add(row)
            session.flush()
            charge(session, principal.tenant, principal.person, 1, row.bytes)
        return Conversation(row.id, row.created_us, row.details)

    def conversation(self, principal: Principal, conversation_id: str) -> Conversation:
        """Raises NotFound: unknown, deleted, or of another owner."""
        with self._database.read() as session:
            row = _found(session, principal, conversation_id)
            return Conversation(row.id, row.created_us, dict(row.details))

    def items(self, principal: Principal, conversation_id: str) -> Items:
        """What a conversation holds, oldest first.

        Raises:
            NotFound: as for `conversation`.
        """
        with self._database.read() as session:
            row = _found(session, principal, conversation_id)
            replies = session.scalars(
                select(ResponseRow)
                .where(is_mine(ResponseRow, principal), ResponseRow.conversation == conversation_id)
                .order_by(ResponseRow.created_us, ResponseRow.id)
            )
            return [*row.items, *(item for reply in replies for item in _items(reply))]

    def replies(self, principal: Principal, conversation_id: str) -> list[str]:
        """Ids of a conversation's replies.

        Raises:
            NotFound: as for `conversation`.
        """
        with self._database.read() as session:
            _found(session, principal, conversation_id)
            return list(
                session.scalars(
                    select(ResponseRow.id).where(
                        is_mine(ResponseRow, principal),
                        ResponseRow.conversation == conversation_id,
                    )
                )
            )

    def delete_conversation(self, principal: Principal, conversation_id: str) -> None:
        """Delete a conversation with its replies.

        Raises:
            NotFound: as for `conversation`.
        """
        with self._database.write() as session:
            row = _found(session, principal, conversation_id, lock=True)
            inside = (
                is_mine(ResponseRow, principal),
                ResponseRow.conversation == conversation_id,
            )
            count = _drop(session, *inside)
            _drop_conversation(session, row)
            detail = {"person": principal.person, "responses": count}
            record(session, principal, "conversation.delete", conversation_id, detail)

    def _purge(self) -> None:
        """Delete the replies that have expired, of all owners."""
        with self._database.write() as session:
            _drop(session, ResponseRow.expires_us <= now_us())

    def _clean(self, principal: Principal, tree: Any) -> Any:
        redactor = self._redactors.of(principal.tenant)
        return mapped(tree, lambda text: redactor.text(text).text)

    def _clean_values(self, principal: Principal, metadata: dict[str, Any]) -> dict[str, Any]:
        return {
            key: self._clean(principal, {"text": value})["text"] for key, value in metadata.items()
        }


def delete_replies(
    session: Session, principal: Principal, conversation: str, ids: Collection[str]
) -> None:
    """Delete a conversation, if there is one, with its replies, and others by their ids."""
    mine = is_mine(ResponseRow, principal)
    rows = session.scalars(
        select(ResponseRow).where(
            mine, or_(ResponseRow.conversation == conversation, ResponseRow.id.in_(ids))
        )
    ).all()
    before = {row.id: row.previous for row in rows}
    for later in session.scalars(select(ResponseRow).where(mine, ResponseRow.previous.in_(before))):
        while later.previous in before:
            later.previous = before[later.previous]
    session.flush()
    _drop(session, mine, ResponseRow.id.in_(before))
    if found := _conversation(session, principal, conversation, lock=True):
        _drop_conversation(session, found)


def delete_all(session: Session, principal: Principal, until_us: int) -> int:
    """Delete a person's replies that were made by a moment, and empty the conversations; returns how many.

    A conversation keeps its id: the order to forget may stand in it, and it goes on.
    """
    gone = _drop(session, is_mine(ResponseRow, principal), ResponseRow.created_us <= until_us)
    emptied = session.scalars(
        select(ConversationRow)
        .where(is_mine(ConversationRow, principal), ConversationRow.created_us <= until_us)
        .with_for_update()
    ).all()
    before = sum(row.bytes for row in emptied)
    for row in emptied:
        row.items, row.details, row.bytes = [], {}, size_of([], {})
    left = sum(row.bytes for row in emptied)
    charge(session, principal.tenant, principal.person, 0, left - before)
    return gone + len(emptied)


def _drop(session: Session, *which: ColumnElement[bool]) -> int:
    """Delete replies, and give back what they took; returns how many."""
    done = session.execute(
        delete(ResponseRow)
        .where(*which)
        .returning(ResponseRow.tenant, ResponseRow.person, ResponseRow.bytes)
    )
    return give_back(session, [(tenant, person, size) for tenant, person, size in done])


def _drop_conversation(session: Session, row: ConversationRow) -> None:
    session.delete(row)
    session.flush()
    give_back(session, [(row.tenant, row.person, row.bytes)])


def _response(session: Session, principal: Principal, response_id: str) -> ResponseRow:
    row = session.scalar(
        select(ResponseRow).where(
            ResponseRow.id == response_id,
            is_mine(ResponseRow, principal),
            (ResponseRow.expires_us.is_(None)) | (ResponseRow.expires_us > now_us()),
        )
    )
    if row is None:
        raise NotFound(
            f"there is no response {response_id!r}: it is unknown, deleted, was not stored, or belongs to "
            "another person",
            param="response_id",
        )
    return row


def _conversation(
    session: Session, principal: Principal, conversation_id: str, lock: bool = False
) -> ConversationRow | None:
    query = select(ConversationRow).where(
        ConversationRow.id == conversation_id, is_mine(ConversationRow, principal)
    )
    return session.scalar(query.with_for_update() if lock else query)


def _found(
    session: Session, principal: Principal, conversation_id: str, lock: bool = False
) -> ConversationRow:
    row = _conversation(session, principal, conversation_id, lock)
    if row is None:
        raise NotFound(
            f"there is no conversation {conversation_id!r}: it is unknown, deleted, or belongs to another "
            "person",
            param="conversation",
        )
    return row


def _stored(row: ResponseRow) -> StoredResponse:
    return StoredResponse(
        row.id, row.conversation, row.previous, list(row.input), dict(row.response)
    )


def _items(row: ResponseRow) -> Items:
    return [*row.input, *row.response.get("output", ())]
