"""Ids of the items that a filter admits, among those that a principal's prompts may hold."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from memos_vllm.cube.filters import ItemFilter, Span, Types, Words
from memos_vllm.cube.ids import to_us
from memos_vllm.cube.model import ItemType, Kind
from memos_vllm.governance.permit import SEARCH
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import records
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow, ItemRow

_SQL_BATCH = 500


class ItemFilters:
    def __init__(self, database: Database) -> None:
        self._database = database

    def matching(self, principal: Principal, where: ItemFilter) -> frozenset[str]:
        """Ids of the items; cubes that the principal may not use are never looked at."""
        conditions = _conditions(where)
        found: set[str] = set()
        with self._database.read() as session:
            cubes = _cubes(session, principal, where)
            for start in range(0, len(cubes), _SQL_BATCH):
                query = select(ItemRow.id, ItemRow.type, ItemRow.claim).where(
                    ItemRow.cube_id.in_(cubes[start : start + _SQL_BATCH]), *conditions
                )
                found.update(
                    item_id
                    for item_id, kind, claim in session.execute(query)
                    if where.event is None or _happens(kind, claim, where.event)
                )
        return frozenset(found)


def _cubes(session: Session, principal: Principal, where: ItemFilter) -> list[str]:
    query = select(CubeRow).where(
        records.all_visible_to(principal, *SEARCH), CubeRow.kind == Kind.EXPLICIT
    )
    return [
        row.id
        for row in session.scalars(query)
        if records.has_place(principal, row)
        and (where.tags is None or where.tags.admit(row.tags))
        and (where.cube is None or _is_named(row, where.cube))
    ]


def _is_named(row: CubeRow, words: Words) -> bool:
    names = {row.id, row.name}
    return (words.any is None or bool(names & set(words.any))) and not names & set(words.none)


def _conditions(where: ItemFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    columns = ((ItemRow.session, where.session), (ItemRow.speaker, where.speaker))
    for column, words in (*columns, (ItemRow.source, where.source)):
        if words is not None:
            conditions += _of_words(column, words)
    if where.source is not None and where.source.prefix is not None:
        conditions.append(ItemRow.source.startswith(where.source.prefix, autoescape=True))
    if where.types is not None:
        conditions += _of_types(where.types)
    if where.said is not None:
        begins, ends = where.said.microseconds()
        conditions.append(ItemRow.time_us.is_not(None))
        conditions += [ItemRow.time_us >= begins] if begins is not None else []
        conditions += [ItemRow.time_us < ends] if ends is not None else []
    if not where.marked:
        conditions.append(ItemRow.mark.is_(None))
    return conditions


def _of_words(column: Any, words: Words) -> list[ColumnElement[bool]]:
    wanted = [column.in_(words.any)] if words.any is not None else []
    return [*wanted, or_(column.is_(None), column.not_in(words.none))]


def _of_types(types: Types) -> list[ColumnElement[bool]]:
    wanted = [ItemRow.type.in_(types.any)] if types.any is not None else []
    return [*wanted, ItemRow.type.not_in(types.none)]


def _happens(kind: str, claim: dict[str, Any] | None, span: Span) -> bool:
    """Whether the time of a claim overlaps the span: of an event a moment or a range, of another one
    from its begin to its end, or until now."""
    begins, ends = _moment(claim, "begins"), _moment(claim, "ends")
    if begins is None and ends is None:
        return False
    if ends is None and kind == ItemType.EVENT:
        assert begins is not None
        ends = begins + 1
    after, before = span.microseconds()
    is_before_end = before is None or begins is None or begins < before
    return is_before_end and (after is None or ends is None or ends > after)


def _moment(claim: dict[str, Any] | None, name: str) -> int | None:
    text = (claim or {}).get(name)
    return to_us(datetime.fromisoformat(text)) if text else None
