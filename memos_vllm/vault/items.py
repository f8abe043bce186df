"""Item rows of the head versions: the source of the indexes, and the lookup of search results.

Runs inside the transaction that makes a version, so that rows, owner revision and outbox agree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from memos_vllm.cube.entities import entities_of
from memos_vllm.cube.ids import SHARED, PersonId, TenantId, now_us, sha256, to_us
from memos_vllm.cube.model import Item, ItemType, Kind, State, plain
from memos_vllm.cube.moments import EARLIEST, LATEST, within_range
from memos_vllm.governance.principal import persona_of
from memos_vllm.vault.quotas import Quotas, Use
from memos_vllm.vault.tables import (
    CubeRow,
    ItemRow,
    MentionRow,
    OutboxRow,
    OwnerRow,
    VersionRow,
)

_SQL_BATCH = 500
SEARCHED = (State.ACTIVATED, State.FROZEN)
_INDEXED_COLUMNS = (
    ItemRow.id,
    ItemRow.cube_id,
    ItemRow.type,
    ItemRow.text,
    ItemRow.speaker,
    ItemRow.time_us,
    ItemRow.session,
    ItemRow.source,
    ItemRow.claim,
    ItemRow.mark,
)
"""Columns of an `IndexedItem`: mapped objects take three times as long, and an owner has thousands."""


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """A person of a tenant, or (`person == ""`) the tenant: the unit of isolation and of indexes."""

    tenant: TenantId
    person: PersonId


@dataclasses.dataclass(frozen=True, slots=True)
class IndexedItem:
    """One item in the form that is indexed."""

    id: str
    cube_id: str
    text: str
    speaker: str | None
    session: str | None
    time_us: int | None
    source: str | None = None
    sources: tuple[str, ...] = ()
    """Messages that state a claim."""
    ends_us: int | None = None
    """End of a claim's validity; None: it holds, or the item is no claim."""
    names: tuple[str, str] | None = None
    """Thing and name in a claim about a name: (`cat`, `Miso`)."""
    persona: str | None = None
    """Persona of its cube; None: it belongs to all personas."""
    is_evidence: bool = True
    """False: a reply with a mark, which no search finds."""
    newer: str | None = None
    """Message with the newer statement that ended a claim, or that may have replaced it."""
    is_belief: bool = False
    """A preference, or a statement that is kept verbatim as a claim."""
    followed_us: int | None = None
    """Time of a later statement that may have replaced a claim."""


class PartKey(NamedTuple):
    """Cache key of a cube's items."""

    cube_id: str
    version: str
    persona: str | None


class CubeItems(NamedTuple):
    key: PartKey
    items: list[IndexedItem] | None
    """None: the caller has them."""


def sync_items(session: Session, cube: CubeRow, items: Sequence[Item]) -> None:
    """Make the rows of a cube equal to `items`, and queue the differences in the outbox."""
    old = {
        row.id: row for row in session.scalars(select(ItemRow).where(ItemRow.cube_id == cube.id))
    }
    present: set[str] = set()
    added: list[Item] = []
    for ordinal, item in enumerate(items):
        assert item.id is not None, "items are identified before they are stored"
        present.add(item.id)
        row = old.get(item.id)
        if row is None:
            session.add(_new_row(cube, item, ordinal))
            added.append(item)
            _queue(session, "upsert", cube, item.id)
        else:
            row.ordinal = ordinal
            row.claim, row.claim_key = _claim(item), claim_key(item)
    for removed in set(old) - present:
        session.delete(old[removed])
        _queue(session, "delete", cube, removed)
    _add_mentions(session, cube, added)
    touch_owner(session, cube, items=len(items) - len(old))


def _add_mentions(session: Session, cube: CubeRow, added: Sequence[Item]) -> None:
    rows = [
        {
            "item_id": item.id,
            "entity": entity.key,
            "name": entity.name,
            "kind": entity.kind,
            "tenant": cube.tenant,
            "person": cube.person,
        }
        for item in added
        for entity in entities_of(item)
    ]
    if rows:
        session.flush()  # mentions refer to item rows
        session.execute(insert(MentionRow), rows)


def drop_cube(session: Session, cube: CubeRow) -> None:
    """Remove a cube's rows; the outbox removes its vectors and payload files."""
    count = session.scalar(select(func.count()).where(ItemRow.cube_id == cube.id)) or 0
    session.execute(delete(ItemRow).where(ItemRow.cube_id == cube.id))
    session.execute(delete(OutboxRow).where(OutboxRow.cube_id == cube.id))
    _queue(session, "drop", cube, "")
    size = session.scalar(
        select(func.sum(VersionRow.payload_bytes)).where(VersionRow.cube_id == cube.id)
    )
    touch_owner(session, cube, items=-count, cubes=-1, size=-int(size or 0))


def content_changed(session: Session, cube: CubeRow) -> None:
    """Have the outbox delete derived data of older versions (KV, copies of adapters)."""
    _queue(session, "changed", cube, "")


def touch_owner(
    session: Session, cube: CubeRow, items: int = 0, cubes: int = 0, size: int = 0
) -> None:
    """Count a change of a cube for its owner.

    Args:
        size: bytes of payloads of its versions.

    Raises:
        QuotaExceeded
    """
    is_adapter = cube.kind == Kind.PARAMETRIC
    change = Use(
        cubes=cubes,
        items=items,
        text_bytes=0 if is_adapter else size,
        adapters=cubes if is_adapter else 0,
        adapter_bytes=size if is_adapter else 0,
    )
    added = {name: getattr(change, name) for name in ("text_bytes", "adapter_bytes", "adapters")}
    counted = (
        update(OwnerRow)
        .where(OwnerRow.tenant == cube.tenant, OwnerRow.person == cube.person)
        .values(
            revision=OwnerRow.revision + 1,
            items=OwnerRow.items + items,
            cubes=OwnerRow.cubes + cubes,
            **{name: getattr(OwnerRow, name) + count for name, count in added.items()},
        )
    )
    if session.execute(counted).rowcount == 0:  # type: ignore[attr-defined]  # CursorResult, for an UPDATE
        _insert_owner(session, cube)
        session.execute(counted)
    quotas: Quotas | None = session.info.get(Quotas)
    if quotas is not None:
        quotas.changed(session, cube.tenant, cube.person, change)


def _insert_owner(session: Session, cube: CubeRow) -> None:
    """An owner without cubes, unless another transaction has inserted it meanwhile: on Postgres a person's
    first writes may be concurrent."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    session.execute(
        (sqlite.insert if is_sqlite else postgresql.insert)(OwnerRow)
        # From the clock: a person who returns after an erasure has no revision of before.
        .values(tenant=cube.tenant, person=cube.person, revision=now_us(), items=0, cubes=0)
        .on_conflict_do_nothing(index_elements=["tenant", "person"])
    )


def cube_keys(
    session: Session,
    owner: Owner,
    *,
    all_listed: bool = True,
    only: Sequence[PartKey] | None = None,
) -> list[PartKey]:
    """All searchable cubes of an owner, oldest first.

    Args:
        all_listed: with the tenant's cubes that are not open; who may use them searches them apart.
        only: these cubes, at their current versions.
    """
    query = (
        select(CubeRow.id, CubeRow.head_version, CubeRow.tags)
        .where(
            CubeRow.tenant == owner.tenant,
            CubeRow.person == owner.person,
            CubeRow.kind == Kind.EXPLICIT,
            CubeRow.state.in_(SEARCHED),
        )
        .order_by(CubeRow.created_us, CubeRow.id)
    )
    queries = [query]
    if only is not None:
        ids = [key.cube_id for key in only]
        batches = (ids[start : start + _SQL_BATCH] for start in range(0, len(ids), _SQL_BATCH))
        queries = [query.where(CubeRow.id.in_(batch)) for batch in batches]
    elif owner.person == SHARED and not all_listed:
        queries = [query.where(CubeRow.is_open)]
    return [
        PartKey(cube, version, persona_of(tags))
        for each in queries
        for cube, version, tags in session.execute(each)
    ]


def load_cubes(
    session: Session, owner: Owner, known: Set[PartKey], only: Sequence[PartKey] | None = None
) -> list[CubeItems]:
    """Searchable cubes of an owner, oldest first.

    Args:
        known: cubes whose items the caller has; they are not read again.
        only: these; None: all of a person's, and the open ones of the tenant's.
    """
    keys = cube_keys(session, owner, all_listed=False, only=only)
    fresh: dict[str, list[IndexedItem]] = {key.cube_id: [] for key in keys if key not in known}
    persona = {key.cube_id: key.persona for key in keys}
    wanted = list(fresh)
    for start in range(0, len(wanted), _SQL_BATCH):
        rows = session.execute(
            select(*_INDEXED_COLUMNS)
            .where(ItemRow.cube_id.in_(wanted[start : start + _SQL_BATCH]))
            .order_by(ItemRow.cube_id, ItemRow.ordinal)
        )
        for row in rows:
            part = fresh[row.cube_id]
            part.append(_indexed(row, persona[row.cube_id]))
    return [CubeItems(key, fresh.get(key.cube_id)) for key in keys]


def load_items(session: Session, cube_id: str, item_ids: set[str]) -> list[IndexedItem]:
    """Those of the items that still exist in the cube, in order."""
    rows = session.scalars(
        select(ItemRow).where(ItemRow.cube_id == cube_id).order_by(ItemRow.ordinal)
    )
    return [_indexed(row) for row in rows if row.id in item_ids]


def _indexed(row: ItemRow | Row[Any], persona: str | None = None) -> IndexedItem:
    claim = row.claim if isinstance(row.claim, dict) else {}
    # A past event stays true, unless a newer statement replaces it.
    is_event = row.type == ItemType.EVENT and "superseded_by" not in claim
    ends = claim.get("ends") if not is_event else None
    return IndexedItem(
        row.id,
        row.cube_id,
        row.text,
        row.speaker,
        row.session,
        _in_range(row.time_us),
        row.source,
        tuple(claim.get("sources") or ()),
        _end(ends),
        _names(claim),
        persona,
        row.mark is None,
        claim.get("superseded_by") or claim.get("followed_by"),
        row.type == ItemType.PREFERENCE or "standing" in claim,
        _end(claim.get("followed_at")),
    )


def indexed(cube: CubeRow, item: Item, persona: str | None) -> IndexedItem:
    """An item, which may be of an older version, in the form that is indexed."""
    return _indexed(_new_row(cube, item, 0), persona)


def _in_range(moment_us: int | None) -> int | None:
    if moment_us is None or not to_us(EARLIEST) <= moment_us <= to_us(LATEST):
        return None
    return moment_us


def _end(stored: object) -> int | None:
    """End of a claim, or another of its times, microseconds; None: it has none, or it is damaged, as `records.item_model` reports."""
    if not isinstance(stored, str):
        return None
    try:
        return to_us(datetime.fromisoformat(str(within_range({"ends": stored})["ends"])))
    except ValueError:
        return None


def _names(claim: Mapping[str, Any]) -> tuple[str, str] | None:
    whose, _, what = (claim.get("attribute") or "").rpartition(".")
    value = claim.get("value")
    return (whose, value) if whose and what == "name" and value else None


def load_rows(
    session: Session, ids: Sequence[str], visible: ColumnElement[bool]
) -> dict[str, tuple[ItemRow, CubeRow]]:
    """Those of the items that exist in cubes of a condition (`records.visible_to`)."""
    found = {}
    for start in range(0, len(ids), _SQL_BATCH):
        rows = session.execute(
            select(ItemRow, CubeRow)
            .join(CubeRow, CubeRow.id == ItemRow.cube_id)
            .where(ItemRow.id.in_(ids[start : start + _SQL_BATCH]), visible)
        )
        found.update({item.id: (item, cube) for item, cube in rows})
    return found


def _new_row(cube: CubeRow, item: Item, ordinal: int) -> ItemRow:
    return ItemRow(
        id=item.id,
        cube_id=cube.id,
        tenant=cube.tenant,
        person=cube.person,
        ordinal=ordinal,
        type=item.type,
        text=item.text,
        speaker=item.speaker,
        time_us=to_us(item.time) if item.time else None,
        session=item.session,
        source=item.source,
        claim=_claim(item),
        claim_key=claim_key(item),
        mark=item.mark,
    )


def claim_key(item: Item) -> str | None:
    """Digest of a claim's subject and attribute, or subject and text without one; None: no claim."""
    if item.claim is None:
        return None
    about = item.claim.attribute or plain(item.text)
    return sha256(f"{plain(item.claim.subject)}\0{about}".encode())


def _claim(item: Item) -> dict[str, Any] | None:
    return item.claim.model_dump(mode="json", exclude_defaults=True) if item.claim else None


def _queue(session: Session, op: str, cube: CubeRow, item_id: str) -> None:
    session.add(
        OutboxRow(
            op=op,
            tenant=cube.tenant,
            person=cube.person,
            cube_id=cube.id,
            item_id=item_id,
            created_us=now_us(),
        )
    )
