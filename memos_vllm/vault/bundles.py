"""Installed bundles of MemStore: which cubes they are, and each change of one in one transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import CubeId, TenantId, new_id, now_us, to_datetime
from memos_vllm.cube.model import Access, CubePatch, NewCube, State
from memos_vllm.cube.moments import LATEST
from memos_vllm.errors import Conflict, Forbidden, NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit, deleting, lookup, records
from memos_vllm.vault.bundle_guard import changing, check_free
from memos_vllm.vault.bundle_tables import BundleCubeRow, BundleRow
from memos_vllm.vault.database import Database
from memos_vllm.vault.derived import Deletion
from memos_vllm.vault.tables import CubeRow
from memos_vllm.vault.vault import MemVault


@dataclasses.dataclass(frozen=True, slots=True)
class Installed:
    """A bundle of a tenant."""

    name: str
    source: str
    fingerprint: str
    state: BundleState
    version: str
    digest: str
    config: Mapping[str, Any]
    follow: Follow
    serial: int
    highest: str
    offered: str | None
    history: Sequence[str]
    readers: Sequence[str] | None
    entitlement: str | None
    ends_us: int | None
    installed_us: int
    changed_us: int
    cubes: Mapping[str, tuple[CubeId, str]]
    """Name in the bundle → cube, and the digest of its content as the publisher sent it."""


@dataclasses.dataclass(slots=True)
class Change:
    """One version of a bundle, in place of what is installed of it."""

    name: str
    source: str
    fingerprint: str
    version: str
    digest: str
    config: Mapping[str, Any]
    serial: int
    highest: str
    follow: Follow
    readers: Sequence[str] | None
    """Persons who may use it; None: the whole tenant."""
    over: str | None
    """Version that it replaces, which has to be installed still; None: the bundle is not installed."""
    created: Mapping[str, tuple[str, NewCube]] = dataclasses.field(default_factory=dict)
    """Name in the bundle → digest of its content, cube."""
    updated: Mapping[str, tuple[str, CubePatch]] = dataclasses.field(default_factory=dict)
    removed: Sequence[str] = ()


class Bundles:
    def __init__(self, database: Database, vault: MemVault) -> None:
        self._database, self._vault = database, vault

    # -- reading ----------------------------------------------------------------------------------

    def all(self, tenant: str) -> list[Installed]:
        """Bundles that are installed, by name."""
        query = select(BundleRow).where(
            BundleRow.tenant == tenant, BundleRow.state != BundleState.REMOVED
        )
        with self._database.read() as session:
            return [
                _installed(session, row) for row in session.scalars(query.order_by(BundleRow.name))
            ]

    def following(self) -> list[tuple[TenantId, Installed]]:
        """Bundles of all tenants that follow newer versions."""
        query = select(BundleRow).where(
            BundleRow.state != BundleState.REMOVED, BundleRow.follow != Follow.NEVER
        )
        with self._database.read() as session:
            return [
                (TenantId(row.tenant), _installed(session, row)) for row in session.scalars(query)
            ]

    def check_free(self, principal: Principal, cube: str) -> None:
        """Raise Conflict: the cube belongs to a bundle."""
        with self._database.read() as session:
            check_free(session, principal, lookup.find(session, principal, cube))

    def known(self, tenant: str, name: str) -> Installed | None:
        """A bundle that is, or was, installed."""
        with self._database.read() as session:
            row = _find(session, tenant, name)
            return _installed(session, row) if row is not None else None

    def get(self, tenant: str, name: str) -> Installed:
        """Raises NotFound: it is not installed."""
        found = self.known(tenant, name)
        if found is None or found.state is BundleState.REMOVED:
            raise NotFound(f"the bundle {name} is not installed", param="name")
        return found

    def count(self, cubes: Sequence[str]) -> int:
        """How many of these cubes are stored."""
        query = select(func.count()).select_from(CubeRow).where(CubeRow.id.in_(cubes))
        with self._database.read() as session:
            return int(session.scalar(query) or 0)

    # -- changing ---------------------------------------------------------------------------------

    def apply(self, principal: Principal, change: Change) -> tuple[Installed, list[Deletion]]:
        """Install a version, or put it in place of another: all of it, or nothing.

        Its cubes are quarantined until the bundle is approved.

        Raises:
            Conflict: the bundle was changed meanwhile, or the tenant has a cube of the same name.
            Forbidden: it is in use, and the version has a price for which there is no entitlement.
            QuotaExceeded, TooLarge
        """
        principal.require(Role.ADMIN)
        try:
            with self._changing() as session:
                row = self._row_for(session, principal, change)
                state = State.ACTIVATED if row.state == BundleState.ACTIVE else State.GENERATED
                members = _members(session, row)
                gone = [members.pop(local) for local in change.removed]
                deletions = _deleted(session, principal, gone)
                session.flush()
                for local, (digest, patch) in change.updated.items():
                    self._vault.update_in(session, principal, members[local], patch)
                    session.get_one(BundleCubeRow, members[local]).digest = digest
                for local, (digest, new) in change.created.items():
                    meta = new.meta.model_copy(update={"state": state, **self._use(row)})
                    cube = self._vault.create_in(
                        session, principal, new.model_copy(update={"meta": meta})
                    )
                    session.add(
                        BundleCubeRow(
                            cube_id=cube.meta.id, bundle_id=row.id, local=local, digest=digest
                        )
                    )
                _take_over(row, change)
                session.flush()
                detail = {
                    "version": change.version,
                    "over": change.over,
                    "digest": change.digest,
                    "publisher": change.fingerprint,
                    "cubes": [len(change.created), len(change.updated), len(change.removed)],
                }
                audit.record(session, principal, "store.install", change.name, detail)
                return _installed(session, row), deletions
        except IntegrityError as error:
            raise Conflict(
                f"the tenant has a shared cube with the name of one of {change.name}'s, or another installation of it "
                "runs: rename that cube, or look again",
                param="name",
            ) from error

    def approve(
        self,
        principal: Principal,
        name: str,
        *,
        digest: str,
        readers: Sequence[str] | None,
        entitlement: str | None,
        ends_us: int | None,
    ) -> Installed:
        """Let the tenant, or some of its persons, use a bundle.

        Args:
            digest: of the version that was looked at.
            ends_us: from then on it is not used any more; None: no end.
        Raises:
            NotFound: it is not installed.
            Conflict: another version is installed by now.
        """
        principal.require(Role.ADMIN)
        with self._changing() as session:
            row = _locked(session, principal.tenant, name)
            if row.digest != digest:
                raise Conflict(f"{name} was changed meanwhile: {row.version} is installed")
            row.state, row.entitlement, row.ends_us = BundleState.ACTIVE, entitlement, ends_us
            row.readers = list(readers) if readers is not None else None
            row.changed_us = now_us()
            access = Access(readers=row.readers)
            for cube in _members(session, row).values():
                for patch in _activations(session, principal, cube, access, ends_us):
                    self._vault.update_in(session, principal, cube, patch)
            detail = {
                "version": row.version,
                "digest": row.digest,
                "readers": len(readers) if readers is not None else None,
                "ends_us": ends_us,
            }
            audit.record(session, principal, "store.approve", name, detail)
            return _installed(session, row)

    def remove(self, principal: Principal, name: str) -> tuple[Installed, list[Deletion]]:
        """Uninstall a bundle with all its cubes. Raises NotFound; Conflict: one is frozen."""
        principal.require(Role.ADMIN)
        with self._changing() as session:
            row = _locked(session, principal.tenant, name)
            before = _installed(session, row)
            deletions = _deleted(session, principal, _members(session, row).values())
            session.execute(delete(BundleCubeRow).where(BundleCubeRow.bundle_id == row.id))
            row.state, row.offered, row.history, row.config = BundleState.REMOVED, None, [], {}
            row.entitlement, row.ends_us, row.readers = None, None, None
            row.changed_us = now_us()
            detail = {"version": row.version, "cubes": len(deletions)}
            audit.record(session, principal, "store.uninstall", name, detail)
            return before, deletions

    def note(
        self,
        principal: Principal,
        name: str,
        *,
        serial: int | None = None,
        follow: Follow | None = None,
        offered: str | None = None,
    ) -> Installed:
        """Set what is known of a bundle: the newest index, how it follows, the version on offer."""
        principal.require(Role.ADMIN)
        with self._database.write() as session:
            row = _locked(session, principal.tenant, name)
            row.serial = max(row.serial, serial or 0)
            row.follow = follow or row.follow
            detail = {"follow": row.follow, "serial": row.serial, "offered": offered}
            audit.record(session, principal, "store.look", name, detail)
            row.offered = offered
            return _installed(session, row)

    # -- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Session]:
        with self._database.write() as session, changing(session):
            yield session

    def _row_for(self, session: Session, principal: Principal, change: Change) -> BundleRow:
        row = _find(session, principal.tenant, change.name, lock=True)
        installed = row.version if row is not None and row.state != BundleState.REMOVED else None
        if installed != change.over:
            raise Conflict(
                f"{change.name} was changed meanwhile: {installed or 'it is not'} installed"
            )
        if row is None:
            row = BundleRow(
                id=new_id("bundle"),
                tenant=principal.tenant,
                name=change.name,
                history=[],
                installed_us=now_us(),
            )
            session.add(row)
        elif row.fingerprint != change.fingerprint:
            raise Conflict(f"{change.name} was changed meanwhile: it is of another publisher now")
        price = change.config.get("price")
        if row.state == BundleState.ACTIVE and price is not None and row.entitlement is None:
            raise Forbidden(
                f"{change.name} {change.version} has a price ({price}): approve the installed version with an "
                "entitlement first",
                param="entitlement",
            )
        if change.updated and row.ends_us is not None and row.ends_us <= now_us():
            raise Conflict(
                f"the entitlement of {change.name} has ended: approve the installed version with a new one first",
                param="entitlement",
            )
        if installed is None:
            row.state, row.installed_us = BundleState.QUARANTINED, now_us()
            row.readers = list(change.readers) if change.readers is not None else None
            _take_over(row, change)
        session.flush()
        return row

    @staticmethod
    def _use(row: BundleRow) -> dict[str, Any]:
        """What a new cube has from its bundle: in quarantine no readers but admins."""
        if row.state != BundleState.ACTIVE:
            return {"access": Access(readers=[])}
        ends = {"expires": to_datetime(row.ends_us)} if row.ends_us is not None else {}
        return {"access": Access(readers=row.readers), **ends}


def _deleted(session: Session, principal: Principal, cubes: Iterable[str]) -> list[Deletion]:
    rows = [lookup.find(session, principal, cube) for cube in cubes]
    return deleting.delete_all(session, principal, rows)


def _take_over(row: BundleRow, change: Change) -> None:
    if change.version in row.history:  # back to it: what came behind it is no past any more
        row.history = row.history[: row.history.index(change.version)]
    elif change.over not in (None, change.version):
        row.history = [*row.history, change.over]
    row.source, row.fingerprint = change.source, change.fingerprint
    row.version, row.digest, row.config = change.version, change.digest, dict(change.config)
    row.serial, row.highest = max(row.serial or 0, change.serial), change.highest
    row.follow, row.offered, row.changed_us = change.follow, None, now_us()


def _activations(
    session: Session, principal: Principal, cube: str, access: Access, ends_us: int | None
) -> list[CubePatch]:
    """Changes that make a cube readable until an end; None: for ever."""
    row = lookup.find(session, principal, cube)
    ends = to_datetime(ends_us) if ends_us is not None else LATEST
    expires = ends if ends_us is not None or row.expires_us is not None else None
    if State(row.state) is State.EXPIRED:  # it comes back through the archive
        first = CubePatch(state=State.ARCHIVED, expires=expires)
        return [first, CubePatch(state=State.ACTIVATED, access=access)]
    state = None if records.effective_state(row) is State.ACTIVATED else State.ACTIVATED
    if records.effective_state(row) is State.EXPIRED:
        return [CubePatch(expires=expires), CubePatch(state=State.ACTIVATED, access=access)]
    return [CubePatch(state=state, access=access, expires=expires)]


def _find(session: Session, tenant: str, name: str, *, lock: bool = False) -> BundleRow | None:
    query = select(BundleRow).where(BundleRow.tenant == tenant, BundleRow.name == name)
    return session.scalars(query.with_for_update() if lock else query).first()


def _locked(session: Session, tenant: str, name: str) -> BundleRow:
    row = _find(session, tenant, name, lock=True)
    if row is None or row.state == BundleState.REMOVED:
        raise NotFound(f"the bundle {name} is not installed", param="name")
    return row


def _members(session: Session, row: BundleRow) -> dict[str, str]:
    query = select(BundleCubeRow).where(BundleCubeRow.bundle_id == row.id)
    return {member.local: member.cube_id for member in session.scalars(query)}


def _installed(session: Session, row: BundleRow) -> Installed:
    query = select(BundleCubeRow).where(BundleCubeRow.bundle_id == row.id)
    cubes = {m.local: (CubeId(m.cube_id), m.digest) for m in session.scalars(query)}
    return Installed(
        name=row.name,
        source=row.source,
        fingerprint=row.fingerprint,
        state=BundleState(row.state),
        version=row.version,
        digest=row.digest,
        config=row.config,
        follow=Follow(row.follow),
        serial=row.serial,
        highest=row.highest,
        offered=row.offered,
        history=tuple(row.history),
        readers=tuple(row.readers) if row.readers is not None else None,
        entitlement=row.entitlement,
        ends_us=row.ends_us,
        installed_us=row.installed_us,
        changed_us=row.changed_us,
        cubes=cubes,
    )
