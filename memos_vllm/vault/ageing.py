"""Queries of the sweep: cubes that have ended, are idle, or hold what a retention rule ends.

Each takes one page of a tenant's cubes, by id, so that a sweep goes on behind a cube that it cannot change.
Frozen cubes are in none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from sqlalchemy import ColumnElement, and_, delete, exists, func, not_, or_, select
from sqlalchemy.orm import Session

from memos_vllm.config.policies import RetentionRule
from memos_vllm.cube.ids import SHARED, CubeId, PersonId, Sha256, TenantId, VersionId
from memos_vllm.cube.model import Kind, Placement, State
from memos_vllm.governance.principal import EVERY_PERSONA, Principal, Role
from memos_vllm.vault import audit, items, records
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import PURGE, JobStore
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow, ItemRow, VersionRow
from memos_vllm.vault.then import content_of

PAGE = 100
_IN_USE = (State.GENERATED, State.ACTIVATED, State.MERGED)


@dataclasses.dataclass(frozen=True, slots=True)
class Aged:
    """A cube that a sweep looks at."""

    cube: CubeId
    owner: Principal
    """The sweep, for the cube's owner."""
    version: VersionId
    """Its current version, which a change has to match."""
    kind: Kind
    state: State


Query = Callable[[str], list[Aged]]
"""The page of cubes behind an id; the empty string: the first page."""


class Ageing:
    def __init__(self, database: Database, payloads: PayloadStore) -> None:
        self._database, self._payloads = database, payloads

    def tenants(self) -> list[TenantId]:
        """All tenants with cubes."""
        with self._database.read() as session:
            return [TenantId(t) for t in session.scalars(select(CubeRow.tenant).distinct())]

    def ended(self, tenant: str, at_us: int) -> Query:
        """Cubes past their end whose row does not say so."""
        return self._pages(
            tenant, CubeRow.expires_us <= at_us, CubeRow.state.not_in((State.EXPIRED, State.FROZEN))
        )

    def long_expired(self, tenant: str, before_us: int) -> Query:
        """Cubes that expired before a time."""
        since = func.coalesce(CubeRow.expires_us, CubeRow.updated_us)
        return self._pages(tenant, CubeRow.state == State.EXPIRED, since < before_us)

    def idle(self, tenant: str, before_us: int) -> Query:
        """Persons' retrieved cubes of text, neither read nor changed since a time.

        Cubes with a priority are left out, and so are cubes of facts: consolidation of the next claim
        about the same subject has to find them.
        """
        used = func.coalesce(CubeRow.last_read_us, CubeRow.updated_us)
        return self._pages(
            tenant,
            CubeRow.kind == Kind.EXPLICIT,
            CubeRow.state == State.ACTIVATED,
            CubeRow.placement == Placement.RETRIEVED,
            CubeRow.person != SHARED,
            CubeRow.priority <= 0,
            or_(CubeRow.name.is_(None), not_(CubeRow.name.regexp_match("^facts[#~]"))),
            CubeRow.updated_us < before_us,
            used < before_us,
        )

    def unchanged(self, tenant: str, rule: RetentionRule, before_us: int) -> Query:
        """Cubes in use that match a rule and have not changed since a time."""
        return self._pages(
            tenant,
            *_of_rule(rule),
            CubeRow.state.in_(_IN_USE),
            CubeRow.updated_us < before_us,
            tag=rule.tag,
        )

    def older(self, tenant: str, rule: RetentionRule, before_us: int) -> Query:
        """Cubes that match a rule and may hold what was stored before a time."""
        of_cube = ItemRow.cube_id == CubeRow.id
        is_old = or_(ItemRow.time_us < before_us, ItemRow.time_us.is_(None))
        replaced = and_(
            VersionRow.cube_id == CubeRow.id,
            VersionRow.id != CubeRow.head_version,
            VersionRow.created_us < before_us,
        )
        return self._pages(
            tenant,
            *_of_rule(rule),
            CubeRow.state != State.FROZEN,
            CubeRow.created_us < before_us,
            or_(
                CubeRow.updated_us < before_us,
                exists().where(of_cube, is_old),
                exists().where(replaced),
            ),
            tag=rule.tag,
        )

    def stored_before(self, cube: str, before_us: int) -> frozenset[str] | None:
        """Ids of the items that a cube held at a time; None: that version is not stored.

        Raises:
            DamagedPayload
        """
        with self._database.read() as session:
            row = session.get(CubeRow, cube)
            version = _version_at(session, cube, before_us)
            if row is None or version is None:
                return None
        held = records.identify(CubeId(cube), list(content_of(self._payloads, row, version).items))
        return frozenset(item.id for item in held if item.id is not None)

    @staticmethod
    def purging(subject: str) -> Callable[[Session], None]:
        """What to do in the transaction that takes old items out: queue the deletion of the versions."""

        def record(session: Session) -> None:
            JobStore.add_in(session, PURGE, subject)

        return record

    def drop_versions(self, aged: Aged, before_us: int, dry_run: bool = False) -> int:
        """Delete the versions that were replaced before a time; returns how many. Idempotent."""
        with self._database.write() as session:
            row = session.get(CubeRow, aged.cube, with_for_update=True)
            current = _version_at(session, aged.cube, before_us)
            if row is None or current is None or row.state == State.FROZEN:
                return 0
            of_cube = select(VersionRow).where(VersionRow.cube_id == row.id)
            old = list(session.scalars(of_cube.where(VersionRow.sequence < current.sequence)))
            if not old or dry_run:
                return len(old)
            gone = {each.payload_sha256 for each in old}
            session.execute(delete(VersionRow).where(VersionRow.id.in_([each.id for each in old])))
            items.touch_owner(session, row, size=-sum(each.payload_bytes for each in old))
            detail = {"person": row.person, "to": current.sequence - 1}
            audit.record(session, aged.owner, "cube.purge", row.id, detail)
            kept = {each.payload_sha256 for each in session.scalars(of_cube)}
        for digest in gone - kept:
            self._payloads.delete(aged.owner.tenant, aged.cube, Sha256(digest))
        return len(old)

    # -- inside -----------------------------------------------------------------------------------

    def _pages(
        self, tenant: str, *conditions: ColumnElement[bool], tag: str | None = None
    ) -> Query:
        query = select(CubeRow).where(CubeRow.tenant == tenant, *conditions).order_by(CubeRow.id)

        def page(after: str) -> list[Aged]:
            with self._database.read() as session:
                found: list[Aged] = []
                rows = session.scalars(
                    query.where(CubeRow.id > after).execution_options(yield_per=PAGE)
                )
                for row in rows:
                    if tag is None or tag in row.tags:
                        found.append(_aged(row))
                    if len(found) == PAGE:
                        break
                return found

        return page


def sweep_of(tenant: str, person: str = SHARED) -> Principal:
    """The principal of the sweep, for one owner."""
    owner = PersonId(person)
    acting = Principal(TenantId(tenant), Role.ADMIN, "sweep", owner, is_sweep=True)
    return acting.in_persona(EVERY_PERSONA)


def _aged(row: CubeRow) -> Aged:
    return Aged(
        CubeId(row.id),
        sweep_of(row.tenant, row.person),
        VersionId(row.head_version),
        Kind(row.kind),
        State(row.state),
    )


def _of_rule(rule: RetentionRule) -> Sequence[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if rule.kind is not None:
        kinds = [kind for kind, name in records.KIND_NAMES.items() if name == rule.kind]
        conditions.append(CubeRow.kind.in_(kinds))
    if rule.placement is not None:
        conditions.append(CubeRow.placement == rule.placement)
    return conditions


def _version_at(session: Session, cube: str, at_us: int) -> VersionRow | None:
    query = select(VersionRow).where(VersionRow.cube_id == cube, VersionRow.created_us <= at_us)
    return session.scalar(query.order_by(VersionRow.sequence.desc()).limit(1))
