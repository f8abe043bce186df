"""State of the vector index: which embedder's vectors serve, and which are being built."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select

from memos_vllm.cube.ids import CubeId, PersonId, TenantId
from memos_vllm.cube.model import State
from memos_vllm.vault import items
from memos_vllm.vault.database import Database
from memos_vllm.vault.items import IndexedItem, Owner, PartKey
from memos_vllm.vault.tables import CubeRow, ItemRow, OwnerRow, SettingRow
from memos_vllm.vault.upsert import put_setting

_SIGNATURE, _SERVING, _BUILDING = "index_signature", "index_serving", "index_building"


@dataclasses.dataclass(frozen=True, slots=True)
class Serving:
    """Vectors that searches use."""

    signature: str
    """Of the embedder and of the index's layout."""
    embedder: dict[str, Any] | None = None
    """Settings of the embedder; None: the index is older than this record."""
    prefix: str | None = None
    """Of the collections' names; None: likewise."""


@dataclasses.dataclass(frozen=True, slots=True)
class Building:
    """Vectors of a changed embedder, which do not serve yet."""

    signature: str
    done: int
    """Items that have their vectors."""
    total: int


class IndexState:
    def __init__(self, database: Database) -> None:
        self._database = database

    def serving(self) -> Serving | None:
        """None: before the first build."""
        with self._database.read() as session:
            signature = session.get(SettingRow, _SIGNATURE)
            if signature is None:
                return None
            row = session.get(SettingRow, _SERVING)
            known = json.loads(row.value) if row is not None else {}
        if known.get("signature") != signature.value:  # written by an older version
            return Serving(signature.value)
        return Serving(signature.value, known["embedder"], known["prefix"])

    def serve(self, serving: Serving) -> None:
        """Record other vectors as those that serve; nothing is being built then."""
        with self._database.write() as session:
            put_setting(session, _SIGNATURE, serving.signature)
            put_setting(session, _SERVING, json.dumps(dataclasses.asdict(serving)))
            if (row := session.get(SettingRow, _BUILDING)) is not None:
                session.delete(row)

    def building(self) -> Building | None:
        with self._database.read() as session:
            row = session.get(SettingRow, _BUILDING)
            return Building(**json.loads(row.value)) if row is not None else None

    def build(self, building: Building) -> None:
        with self._database.write() as session:
            put_setting(session, _BUILDING, json.dumps(dataclasses.asdict(building)))

    def owners(self) -> dict[Owner, int]:
        """Every owner with its revision."""
        with self._database.read() as session:
            rows = session.execute(select(OwnerRow.tenant, OwnerRow.person, OwnerRow.revision))
            return {Owner(TenantId(t), PersonId(p)): revision for t, p, revision in rows}

    def count(self) -> int:
        """Number of items that have vectors."""
        with self._database.read() as session:
            query = (
                select(func.count())
                .select_from(ItemRow)
                .join(CubeRow, CubeRow.id == ItemRow.cube_id)
                .where(CubeRow.state != State.EXPIRED)
            )
            return session.scalar(query) or 0

    def cubes(self, owner: Owner) -> Iterator[tuple[CubeId, set[str]]]:
        """Each cube of an owner with the ids of its items."""
        with self._database.read() as session:
            rows = session.execute(
                select(ItemRow.cube_id, ItemRow.id)
                .join(CubeRow, CubeRow.id == ItemRow.cube_id)
                .where(
                    ItemRow.tenant == owner.tenant,
                    ItemRow.person == owner.person,
                    CubeRow.state != State.EXPIRED,
                )
            )
            found: dict[CubeId, set[str]] = {}
            for cube, item in rows:
                found.setdefault(CubeId(cube), set()).add(item)
        yield from found.items()

    def cube_versions(self, owner: Owner) -> list[PartKey]:
        """Versions of an owner's cubes that are searched, oldest cube first."""
        with self._database.read() as session:
            return items.cube_keys(session, owner)

    def items(self, cube: CubeId, ids: set[str]) -> list[IndexedItem]:
        """Those of the items that still exist."""
        with self._database.read() as session:
            return items.load_items(session, cube, ids)
