"""Queries over many cubes: lists, stable cubes of prompts, search results.

All queries of requests take a `Principal`; results of a search engine are looked up here again before
they are used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence, Set

from sqlalchemy import ColumnElement, Select, and_, or_, select, update
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import SHARED, Sha256, TenantId, now_us
from memos_vllm.cube.model import Header, Item, Kind, Placement, State
from memos_vllm.errors import NotFound
from memos_vllm.governance.permit import PROMPT, Permission
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import cursors, items, owners, records
from memos_vllm.vault.database import Database
from memos_vllm.vault.items import CubeItems, Owner, PartKey
from memos_vllm.vault.owners import OwnerState
from memos_vllm.vault.tables import CubeRow, DerivedRow, ItemRow, VersionRow

__all__ = ["OwnerState", "VaultViews"]
_SQL_BATCH = 500


@dataclasses.dataclass(frozen=True, slots=True)
class CubeFilter:
    person: str | None = None
    shared: bool | None = None
    state: State | None = None
    placement: Placement | None = None
    tag: str | None = None
    name_prefix: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Recalled:
    """One item that the principal may see now, with the header facts that a plan needs."""

    item: Item
    cube_id: str
    cube_name: str | None
    version: str
    person: str
    priority: int


@dataclasses.dataclass(frozen=True, slots=True)
class StableCube:
    cube_id: str
    name: str | None
    version: str
    sequence: int
    person: str
    priority: int
    reads: int
    created_us: int
    items: tuple[Item, ...]
    is_listed: bool = False  # shared, with a list of readers


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterCube:
    """A parametric cube that the principal may use."""

    cube_id: str
    name: str | None
    version: str
    sequence: int
    tenant: str
    person: str
    priority: int
    placement: Placement
    digest: Sha256
    model: str | None
    """Fingerprint of the model that it was checked against."""
    created_us: int
    is_listed: bool = False  # shared, with a list of readers


@dataclasses.dataclass(frozen=True, slots=True)
class ForPrompts:
    """Cubes of a prompt: placed in all prompts of the principal, or named in this request."""

    texts: list[StableCube]
    """For the head of the prompt, in its order."""
    named: int
    """Number of named ones; they come first in `texts`."""
    adapters: list[AdapterCube]


class VaultViews:
    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, principal: Principal, where: CubeFilter, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[Header], str | None]:
        """Headers, newest first, and the cursor of the next page (None: this was the last)."""
        query = select(CubeRow).where(records.all_visible_to(principal))
        if where.person is not None:
            query = query.where(CubeRow.person == where.person)
        if where.shared is not None:
            query = query.where((CubeRow.person == SHARED) == where.shared)
        if where.placement is not None:
            query = query.where(CubeRow.placement == where.placement)
        if where.state not in (
            None,
            State.EXPIRED,
        ):  # `expires` makes cubes of other states expired
            query = query.where(CubeRow.state == where.state)
        if where.name_prefix:
            query = query.where(CubeRow.name.startswith(where.name_prefix, autoescape=True))
        if cursor:
            moment, cube_id = cursors.decode(cursor)
            query = query.where(
                or_(
                    CubeRow.created_us < moment,
                    and_(CubeRow.created_us == moment, CubeRow.id < cube_id),
                )
            )
        query = query.order_by(CubeRow.created_us.desc(), CubeRow.id.desc())
        page: list[CubeRow] = []
        with self._database.read() as session:
            for row in session.scalars(query.execution_options(yield_per=200)):
                if not _matches(row, where):
                    continue
                page.append(row)
                if len(page) > limit:
                    break
            headers = _headers(session, page[:limit])
        more = len(page) > limit
        return headers, cursors.encode(page[limit - 1]) if more else None

    def owners(
        self, principal: Principal, permissions: Sequence[Permission] = PROMPT
    ) -> list[OwnerState]:
        """Owners whose memory this principal's prompts may hold: the person, the tenant, and those who
        share cubes with the person, each with these cubes.

        Args:
            permissions: on the cubes of others, and on the tenant's that are not open.
        """
        with self._database.read() as session:
            return owners.states(session, principal, permissions)

    def owner_cubes(
        self,
        owner: Owner,
        known: Set[PartKey] = frozenset(),
        only: Sequence[PartKey] | None = None,
    ) -> list[CubeItems]:
        """Items of an owner, for index builders only: they take `owner` and `only` from `owners`.

        Args:
            known: cubes whose items the caller has.
            only: these cubes; None: all of a person's, and the open ones of the tenant's.
        """
        with self._database.read() as session:
            return items.load_cubes(session, owner, known, only)

    def recall(
        self,
        principal: Principal,
        ids: Sequence[str],
        permissions: Sequence[Permission] = PROMPT,
    ) -> dict[str, Recalled]:
        """Those of the items that exist and that this principal's prompts may hold."""
        visible = records.visible_to(principal, *permissions)
        with self._database.read() as session:
            return {
                item_id: recalled
                for item_id, (item, cube) in items.load_rows(session, ids, visible).items()
                if records.has_place(principal, cube)
                and (recalled := _recalled(item, cube)) is not None
            }

    def stable(self, principal: Principal, refs: Iterable[str]) -> ForPrompts:
        """Cubes for every prompt: those named (in that order), then the placed ones.

        Raises:
            NotFound: a named cube is absent, not yours, or not in a readable state.
        """
        with self._database.read() as session:
            named: list[CubeRow] = []
            for ref in refs:
                query = select(CubeRow).where(records.visible_to(principal, Permission.USE))
                found = session.scalars(
                    query.where(_is_called(principal, ref)).order_by(CubeRow.person.desc())
                )
                cube = next(filter(records.is_active, found), None)
                if cube is None:
                    raise NotFound(f"there is no cube {ref!r} here", param="memory.cubes")
                if all(cube.id != other.id for other in named):
                    named.append(cube)
            chosen = {row.id for row in named}
            everything = records.all_visible_to(principal, Permission.USE)
            placed = session.scalars(
                select(CubeRow)
                .where(everything, CubeRow.placement == Placement.STABLE)
                .order_by(
                    CubeRow.person != SHARED,
                    CubeRow.person == principal.person,
                    CubeRow.person,
                    CubeRow.priority.desc(),
                    CubeRow.created_us,
                    CubeRow.id,
                )
            )
            rows = named + [
                row for row in placed if row.id not in chosen and records.has_place(principal, row)
            ]
            return ForPrompts(
                [_stable(session, row) for row in rows if row.kind == Kind.EXPLICIT],
                sum(row.kind == Kind.EXPLICIT for row in named),
                _adapters(session, [row for row in rows if row.kind == Kind.PARAMETRIC]),
            )

    def adapters(self, principal: Principal) -> list[AdapterCube]:
        """All parametric cubes that this principal may use."""
        query = _adapters_for(principal).order_by(CubeRow.created_us, CubeRow.id)
        with self._database.read() as session:
            rows = session.scalars(query)
            return _adapters(session, list(filter(records.is_active, rows)))

    def adapter(self, principal: Principal, ref: str) -> AdapterCube | None:
        """Parametric cube by id or name: the person's own before the tenant's."""
        query = select(CubeRow).where(
            records.visible_to(principal, Permission.USE),
            CubeRow.kind == Kind.PARAMETRIC,
            _is_called(principal, ref),
        )
        with self._database.read() as session:
            rows = session.scalars(query.order_by(CubeRow.person.desc()))
            row = next(filter(records.is_active, rows), None)
            return _adapters(session, [row])[0] if row is not None else None

    def learnt_together(
        self, principal: Principal, cubes: Sequence[AdapterCube]
    ) -> AdapterCube | None:
        """Smallest adapter that was trained on all sources of these; None: the principal may use none."""
        ids = [cube.cube_id for cube in cubes]
        query, of = select(DerivedRow.cube_id, DerivedRow.source_id), select(DerivedRow.source_id)
        with self._database.read() as session:
            learnt: dict[str, set[str]] = {each: set() for each in ids}
            for cube, source in session.execute(query.where(DerivedRow.cube_id.in_(ids))):
                learnt[cube].add(source)
            if not all(learnt.values()):
                return None  # an adapter without recorded sources
            wanted = set[str]().union(*learnt.values())
            candidates = select(DerivedRow.cube_id).where(DerivedRow.source_id.in_(wanted))
            rows = session.scalars(_adapters_for(principal).where(CubeRow.id.in_(candidates)))
            found = []
            for row in rows:
                if row.id not in ids and records.is_active(row) and not row.stale:
                    sources = set(session.scalars(of.where(DerivedRow.cube_id == row.id)))
                    if wanted <= sources:
                        found.append((len(sources), -row.created_us, row.id, row))
            return _adapters(session, [min(found)[-1]])[0] if found else None

    def adapter_payloads(self) -> set[tuple[TenantId, Sha256]]:
        """Digests of all versions of all adapters, for the cache of unpacked copies."""
        query = (
            select(CubeRow.tenant, VersionRow.payload_sha256)
            .join(VersionRow, VersionRow.cube_id == CubeRow.id)
            .where(CubeRow.kind == Kind.PARAMETRIC)
        )
        with self._database.read() as session:
            return {(TenantId(t), Sha256(digest)) for t, digest in session.execute(query)}

    def hidden_texts(
        self, tenant: str, person: str, readers: Sequence[str] | None
    ) -> Iterator[str]:
        """Texts of the tenant that not all of these readers may read, for the leak check only.

        Args:
            person: the one reader; empty: `readers`.
            readers: persons; None: everyone in the tenant.
        """
        with self._database.read() as session:
            yield from owners.hidden_texts(session, tenant, [person] if person else readers)

    def may_use(self, principal: Principal, cube_ids: Sequence[str]) -> bool:
        """Whether the principal's prompts may hold every one of these cubes."""
        wanted = set(cube_ids)
        with self._database.read() as session:
            rows = session.scalars(
                select(CubeRow).where(
                    CubeRow.id.in_(wanted), records.visible_to(principal, Permission.USE)
                )
            )
            return {row.id for row in rows if records.is_active(row)} == wanted

    def count_reads(self, cube_ids: Iterable[str]) -> None:
        """Increment the usage counters of the headers; not on the request's path."""
        with self._database.write() as session:
            for cube_id in cube_ids:
                session.execute(
                    update(CubeRow)
                    .where(CubeRow.id == cube_id)
                    .values(reads=CubeRow.reads + 1, last_read_us=now_us())
                )


def _adapters_for(principal: Principal) -> Select[CubeRow]:
    return select(CubeRow).where(
        records.all_visible_to(principal, Permission.USE), CubeRow.kind == Kind.PARAMETRIC
    )


def _is_called(principal: Principal, ref: str) -> ColumnElement[bool]:
    """By id, or by name among the person's own and the tenant's."""
    people = (principal.person, SHARED)
    owned = and_(CubeRow.tenant == principal.tenant, CubeRow.person.in_(people))
    return or_(CubeRow.id == ref, and_(owned, CubeRow.name == ref))


def _matches(row: CubeRow, where: CubeFilter) -> bool:
    if where.state is not None and records.effective_state(row) != where.state:
        return False
    return where.tag is None or where.tag in row.tags


def _headers(session: Session, rows: Sequence[CubeRow]) -> list[Header]:
    versions = _head_versions(session, rows)
    return [records.header(row, versions[row.head_version]) for row in rows]


def _adapters(session: Session, rows: Sequence[CubeRow]) -> list[AdapterCube]:
    versions = _head_versions(session, rows)
    return [_adapter(row, versions[row.head_version]) for row in rows]


def _head_versions(session: Session, rows: Sequence[CubeRow]) -> dict[str, VersionRow]:
    found: dict[str, VersionRow] = {}
    heads = [row.head_version for row in rows]
    for start in range(0, len(heads), _SQL_BATCH):
        query = select(VersionRow).where(VersionRow.id.in_(heads[start : start + _SQL_BATCH]))
        found.update({version.id: version for version in session.scalars(query)})
    return found


def _recalled(row: ItemRow, cube: CubeRow) -> Recalled | None:
    """None: the item is damaged."""
    item = records.item_model(row)
    if item is None:
        return None
    return Recalled(item, cube.id, cube.name, cube.head_version, cube.person, cube.priority)


def _stable(session: Session, row: CubeRow) -> StableCube:
    content = session.scalars(
        select(ItemRow).where(ItemRow.cube_id == row.id).order_by(ItemRow.ordinal)
    )
    return StableCube(
        cube_id=row.id,
        name=row.name,
        version=row.head_version,
        sequence=row.head_sequence,
        person=row.person,
        priority=row.priority,
        reads=row.reads,
        created_us=row.created_us,
        items=tuple(
            item
            for each in content
            if each.mark is None and (item := records.item_model(each)) is not None
        ),
        is_listed=records.is_listed(row),
    )


def _adapter(row: CubeRow, version: VersionRow) -> AdapterCube:
    return AdapterCube(
        cube_id=row.id,
        name=row.name,
        version=row.head_version,
        sequence=row.head_sequence,
        tenant=row.tenant,
        person=row.person,
        priority=row.priority,
        placement=Placement(row.placement),
        digest=Sha256(version.payload_sha256),
        model=row.model_fingerprint,
        created_us=row.created_us,
        is_listed=records.is_listed(row),
    )
