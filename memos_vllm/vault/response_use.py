"""What stored replies and conversations take, counted in the owner's row for quotas."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import now_us
from memos_vllm.vault.quotas import Quotas, Use
from memos_vllm.vault.tables import OwnerRow


def size_of(*trees: Any) -> int:
    """Bytes of JSON trees."""
    return sum(
        len(json.dumps(tree, ensure_ascii=False).encode("utf-8", "surrogatepass")) for tree in trees
    )


def charge(session: Session, tenant: str, person: str, count: int, size: int) -> None:
    """Count replies and conversations that the transaction has added or, below zero, deleted.

    Args:
        size: their bytes.

    Raises:
        QuotaExceeded: roll back.
    """
    if not count and not size:
        return
    if not _add(session, tenant, person, count, size):
        insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
        empty = {"revision": now_us(), "items": 0, "cubes": 0}  # as in `items.touch_owner`
        session.execute(
            insert(OwnerRow)
            .values(tenant=tenant, person=person, **empty)
            .on_conflict_do_nothing(index_elements=["tenant", "person"])
        )
        _add(session, tenant, person, count, size)
    quotas: Quotas | None = session.info.get(Quotas)
    if quotas is not None:
        quotas.changed(session, tenant, person, Use(responses=count, response_bytes=size))


def give_back(session: Session, gone: Iterable[tuple[str, str, int]]) -> int:
    """Count deleted rows, given as (tenant, person, bytes); returns how many. In one order, so that two
    transactions do not wait for each other."""
    counts, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for tenant, person, size in gone:
        counts[tenant, person] += 1
        sizes[tenant, person] += size
    for owner in sorted(counts):
        charge(session, *owner, -counts[owner], -sizes[owner])
    return counts.total()


def _add(session: Session, tenant: str, person: str, count: int, size: int) -> bool:
    changed = session.execute(
        update(OwnerRow)
        .where(OwnerRow.tenant == tenant, OwnerRow.person == person)
        .values(responses=OwnerRow.responses + count, response_bytes=OwnerRow.response_bytes + size)
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # CursorResult, for an UPDATE
