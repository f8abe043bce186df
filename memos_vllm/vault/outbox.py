"""Outbox: pending writes to Chroma and deletions of payload files and KV.

A row is written in the transaction of the change that causes it and deleted after its work is done, so
a kill in between repeats the work, which is idempotent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sqlalchemy import delete, func, select

from memos_vllm.cube.ids import CubeId, PersonId, TenantId, now_us
from memos_vllm.cube.model import State
from memos_vllm.vault import items
from memos_vllm.vault.database import Database
from memos_vllm.vault.items import IndexedItem, Owner
from memos_vllm.vault.tables import CubeRow, ItemRow, OutboxRow, SettingRow
from memos_vllm.vault.upsert import put_setting

_SQL_BATCH = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Pending work of one cube, folded: one upsert or delete per item."""

    owner: Owner
    cube: CubeId
    upserts: tuple[IndexedItem, ...]
    deletes: tuple[str, ...]
    drop: bool
    sequence: int | None
    """Of the cube's current version; None: the cube was deleted."""
    version: str | None
    """The cube's current version; None: likewise."""
    rows: tuple[int, ...]


class Outbox:
    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self, cubes: Sequence[str] | None = None, limit: int = 512) -> list[Work]:
        """Pending work, oldest first.

        Args:
            cubes: of these cubes only; None: of all.
        """
        query = select(OutboxRow).order_by(OutboxRow.seq).limit(limit)
        if cubes is not None:
            query = query.where(OutboxRow.cube_id.in_(cubes))
        work = []
        with self._database.read() as session:
            grouped: dict[str, list[OutboxRow]] = {}
            for row in session.scalars(query):
                grouped.setdefault(row.cube_id, []).append(row)
            for cube_id, rows in grouped.items():
                named = {row.item_id for row in rows if row.item_id}
                cube = session.get(CubeRow, cube_id)
                found = tuple(items.load_items(session, cube_id, named))
                present = {item.id for item in found}
                work.append(
                    Work(
                        owner=Owner(TenantId(rows[0].tenant), PersonId(rows[0].person)),
                        cube=CubeId(cube_id),
                        upserts=found,
                        deletes=tuple(named - present),
                        drop=any(row.op == "drop" for row in rows),
                        sequence=cube.head_sequence if cube is not None else None,
                        version=cube.head_version if cube is not None else None,
                        rows=tuple(row.seq for row in rows),
                    )
                )
        return work

    def done(self, batch: Sequence[Work]) -> None:
        rows = [row for work in batch for row in work.rows]
        if not rows:
            return
        with self._database.write() as session:
            for start in range(0, len(rows), _SQL_BATCH):
                part = rows[start : start + _SQL_BATCH]
                session.execute(delete(OutboxRow).where(OutboxRow.seq.in_(part)))

    def size(self) -> int:
        with self._database.read() as session:
            return session.scalar(select(func.count()).select_from(OutboxRow)) or 0

    def waiting(self, owner: Owner) -> set[str]:
        """Cubes of an owner with pending work."""
        with self._database.read() as session:
            return set(
                session.scalars(
                    select(OutboxRow.cube_id)
                    .where(OutboxRow.tenant == owner.tenant, OutboxRow.person == owner.person)
                    .distinct()
                )
            )

    def refill(self) -> int:
        """Queue every item of the vault again (`memos reindex`); returns how many."""
        with self._database.write() as session:
            session.execute(delete(OutboxRow).where(OutboxRow.op == "upsert"))
            rows = session.execute(
                select(ItemRow.id, ItemRow.cube_id, ItemRow.tenant, ItemRow.person)
                .join(CubeRow, CubeRow.id == ItemRow.cube_id)
                .where(CubeRow.state != State.EXPIRED)
                .order_by(ItemRow.cube_id, ItemRow.ordinal)
            )
            moment, count = now_us(), 0
            for item_id, cube_id, tenant, person in rows:
                session.add(
                    OutboxRow(
                        op="upsert",
                        tenant=tenant,
                        person=person,
                        cube_id=cube_id,
                        item_id=item_id,
                        created_us=moment,
                    )
                )
                count += 1
        return count

    def index_signature(self) -> str | None:
        """Embedder and layout with which the index was built; None before the first build."""
        with self._database.read() as session:
            row = session.get(SettingRow, "index_signature")
            return row.value if row else None

    def set_index_signature(self, signature: str) -> None:
        with self._database.write() as session:
            put_setting(session, "index_signature", signature)
