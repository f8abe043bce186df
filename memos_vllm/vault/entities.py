"""Entity graph of an owner's memory, for one-hop search.

Nodes are names of people, places and things; edges are the items that name them, with their times.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime

from sqlalchemy import ColumnElement, Select, func, select

from memos_vllm.cube.entities import EntityKind, entity_key
from memos_vllm.cube.ids import SHARED, to_datetime
from memos_vllm.cube.lifecycle import READABLE
from memos_vllm.cube.model import Item
from memos_vllm.governance.permit import Permission
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import records
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow, ItemRow, MentionRow

RARE = 12
"""An entity that more items name is too frequent to link them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """A node of the graph."""

    name: str
    """Its most frequent spelling."""
    kind: EntityKind
    items: int
    first: datetime | None
    last: datetime | None


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """An item one hop away."""

    item_id: str
    via: str
    """The shared name."""
    weight: float
    """Sum over shared names of 1 / items with that name."""


class Entities:
    def __init__(self, database: Database) -> None:
        self._database = database

    def known(
        self, principal: Principal, kind: EntityKind | None = None, limit: int = 100
    ) -> list[Known]:
        """Entities of the person's memory, most frequent first."""
        query = (
            select(
                MentionRow.entity,
                MentionRow.name,
                MentionRow.kind,
                func.count(),
                func.min(ItemRow.time_us),
                func.max(ItemRow.time_us),
            )
            .join(ItemRow, ItemRow.id == MentionRow.item_id)
            .join(CubeRow, CubeRow.id == ItemRow.cube_id)
            .where(
                _own(principal),
                records.visible_to(principal, Permission.USE),
                CubeRow.state.in_(READABLE),
            )
            .group_by(MentionRow.entity, MentionRow.name, MentionRow.kind)
        )
        with self._database.read() as session:
            rows = session.execute(query).all()
        found: dict[str, list[tuple[str, str, int, int | None, int | None]]] = defaultdict(list)
        for entity, *row in rows:
            found[entity].append(tuple(row))  # type: ignore[arg-type]  # the query's columns
        nodes = [_node(rows) for rows in found.values()]
        wanted = [node for node in nodes if kind is None or node.kind == kind]
        return sorted(wanted, key=lambda node: (-node.items, node.name))[:limit]

    def naming(self, principal: Principal, name: str, limit: int = 50) -> list[tuple[str, Item]]:
        """The person's own items that name an entity, as (cube, item), newest first."""
        query = (
            select(ItemRow, CubeRow)
            .join(MentionRow, MentionRow.item_id == ItemRow.id)
            .join(CubeRow, CubeRow.id == ItemRow.cube_id)
            .where(
                _own(principal),
                records.visible_to(principal, Permission.USE),
                MentionRow.entity == entity_key(name),
                CubeRow.state.in_(READABLE),
            )
            .order_by(ItemRow.time_us.desc(), ItemRow.id)
            .limit(limit)
        )
        with self._database.read() as session:
            return [
                (cube.id, item)
                for row, cube in session.execute(query)
                if (item := records.item_model(row)) is not None
            ]

    def beside(
        self, principal: Principal, items: Sequence[str], besides: AbstractSet[str], limit: int
    ) -> list[Link]:
        """Items one hop away: they share a rare name with the start items.

        Args:
            items: start items, best first, which the principal may read.
            besides: keys of names to ignore, as the question has them.
        """
        with self._database.read() as session:
            start = session.execute(
                select(MentionRow.entity, MentionRow.name)
                .join(ItemRow, ItemRow.id == MentionRow.item_id)
                .join(CubeRow, CubeRow.id == ItemRow.cube_id)
                .where(MentionRow.item_id.in_(items), records.visible_to(principal, Permission.USE))
            ).all()
            via = {entity: name for entity, name in start if entity not in besides}
            if not via:
                return []
            reached = session.execute(_naming(principal, via)).all()
        counts = Counter(entity for _, entity, _ in reached)
        links: dict[str, Link] = {}
        times: dict[str, int] = {}
        for item_id, entity, time_us in reached:
            if item_id in items or counts[entity] > RARE:
                continue
            weight = 1 / counts[entity] + (links[item_id].weight if item_id in links else 0)
            links[item_id] = Link(item_id, via[entity], weight)
            times[item_id] = time_us or 0
        ranked = sorted(links.values(), key=lambda link: (-link.weight, -times[link.item_id]))
        return ranked[:limit]


def _naming(principal: Principal, entities: Iterable[str]) -> Select[str, str, int | None]:
    """(item, entity, time) of the newest `RARE + 1` items of each entity.

    Only cubes that the principal may use are counted, so that the rarity of a name reveals nothing of
    others.  Cubes of other people that are shared with the principal are left out.
    """
    number = func.row_number().over(
        partition_by=MentionRow.entity, order_by=(ItemRow.time_us.desc(), ItemRow.id)
    )
    named = (
        select(MentionRow.item_id, MentionRow.entity, ItemRow.time_us, number.label("number"))
        .join(ItemRow, ItemRow.id == MentionRow.item_id)
        .join(CubeRow, CubeRow.id == ItemRow.cube_id)
        .where(
            MentionRow.entity.in_(set(entities)),
            MentionRow.tenant == principal.tenant,
            MentionRow.person.in_((principal.person, SHARED)),
            records.visible_to(principal, Permission.USE),
            CubeRow.state.in_(READABLE),
        )
        .subquery()
    )
    return select(named.c.item_id, named.c.entity, named.c.time_us).where(
        named.c.number <= RARE + 1
    )


def _own(principal: Principal) -> ColumnElement[bool]:
    return (MentionRow.tenant == principal.tenant) & (MentionRow.person == principal.person)


def _node(rows: Sequence[tuple[str, str, int, int | None, int | None]]) -> Known:
    name = max(rows, key=lambda row: row[2])[0]
    kinds = Counter[str]()
    for _, kind, count, _, _ in rows:
        kinds[kind] += count
    specific = {kind: count for kind, count in kinds.items() if kind != "thing"}
    kind = max(specific or kinds, key=lambda each: kinds[each])
    times = [moment for row in rows for moment in row[3:] if moment is not None]
    return Known(
        name,
        kind,  # type: ignore[arg-type]  # the column holds only these words
        sum(row[2] for row in rows),
        to_datetime(min(times)) if times else None,
        to_datetime(max(times)) if times else None,
    )
