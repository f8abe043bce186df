"""Installed bundles of MemStore: which cubes they are, and each change of one in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import TenantId, new_id, now_us, to_datetime
from memos_vllm.cube.model import Access, NewCube, Placement, State
from memos_vllm.errors import Conflict, Forbidden, NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit, bundle_gates, deleting, lookup
from memos_vllm.vault.bundle_guard import changing, check_free
from memos_vllm.vault.bundle_rows import (
    Change,
    Installed,
    find,
    installed,
    locked,
    member_rows,
    members,
    take_over,
)
from memos_vllm.vault.bundle_tables import BundleCubeRow, BundleRow
from memos_vllm.vault.database import Database
from memos_vllm.vault.derived import Deletion
from memos_vllm.vault.jobs import HEADS, JobStore
from memos_vllm.vault.tables import CubeRow
from memos_vllm.vault.vault import InTransaction, MemVault


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
                installed(session, row) for row in session.scalars(query.order_by(BundleRow.name))
            ]

    def following(self) -> list[tuple[TenantId, Installed]]:
        """Bundles of all tenants that follow newer versions."""
        query = select(BundleRow).where(
            BundleRow.state != BundleState.REMOVED, BundleRow.follow != Follow.NEVER
        )
        with self._database.read() as session:
            return [
                (TenantId(row.tenant), installed(session, row)) for row in session.scalars(query)
            ]

    def check_free(self, principal: Principal, cube: str) -> None:
        """Raise Conflict: the cube belongs to a bundle."""
        with self._database.read() as session:
            check_free(session, principal, lookup.find(session, principal, cube))

    def known(self, tenant: str, name: str) -> Installed | None:
        """A bundle that is, or was, installed."""
        with self._database.read() as session:
            row = find(session, tenant, name)
            return installed(session, row) if row is not None else None

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

        Its cubes are quarantined until the bundle is approved, adapters also until they have passed the gate here.

        Raises:
            Conflict: the bundle was changed meanwhile, or the tenant has a cube of the same name.
            Forbidden: it is in use, and the version has a price for which there is no entitlement.
            QuotaExceeded, TooLarge
        """
        principal.require(Role.ADMIN)
        try:
            with self._changing() as session:
                row = self._row_for(session, principal, change)
                there = members(session, row)
                gone = [there.pop(local) for local in change.removed]
                deletions = _deleted(session, principal, gone)
                session.flush()
                for local, (digest, patch) in change.updated.items():
                    self._vault.update_in(session, principal, there[local], patch)
                    self._replaced(session, principal, row, there[local], digest)
                for local, (digest, new) in change.created.items():
                    self._add(session, principal, row, local, digest, new)
                take_over(row, change)
                session.flush()
                _queue_exams(session, principal, row)
                _queue_heads(session, row)
                detail = {
                    "version": change.version,
                    "over": change.over,
                    "digest": change.digest,
                    "publisher": change.fingerprint,
                    "cubes": [len(change.created), len(change.updated), len(change.removed)],
                }
                audit.record(session, principal, "store.install", change.name, detail)
                return installed(session, row), deletions
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
        trust_adapters: bool = False,
    ) -> Installed:
        """Let the tenant, or some of its persons, use a bundle; its adapters once they have passed the gate.

        Args:
            digest: of the version that was looked at.
            ends_us: from then on it is not used any more; None: no end.
            trust_adapters: use them without a pass.
        Raises:
            NotFound: it is not installed.
            Conflict: another version is installed by now.
        """
        principal.require(Role.ADMIN)
        with self._changing() as session:
            row = locked(session, principal.tenant, name)
            if row.digest != digest:
                raise Conflict(f"{name} was changed meanwhile: {row.version} is installed")
            row.state, row.entitlement, row.ends_us = BundleState.ACTIVE, entitlement, ends_us
            row.readers = list(readers) if readers is not None else None
            row.changed_us = now_us()
            _queue_exams(session, principal, row, trust_adapters, again=True)
            for member in member_rows(session, row):
                for patch in bundle_gates.activations(session, principal, member, row):
                    self._vault.update_in(session, principal, member.cube_id, patch)
            _queue_heads(session, row)
            detail = {
                "version": row.version,
                "trust_adapters": trust_adapters,
                "digest": row.digest,
                "readers": len(readers) if readers is not None else None,
                "ends_us": ends_us,
            }
            audit.record(session, principal, "store.approve", name, detail)
            return installed(session, row)

    def remove(self, principal: Principal, name: str) -> tuple[Installed, list[Deletion]]:
        """Uninstall a bundle with all its cubes. Raises NotFound; Conflict: one is frozen."""
        principal.require(Role.ADMIN)
        with self._changing() as session:
            row = locked(session, principal.tenant, name)
            before = installed(session, row)
            deletions = _deleted(session, principal, members(session, row).values())
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
            row = locked(session, principal.tenant, name)
            row.serial = max(row.serial, serial or 0)
            row.follow = follow or row.follow
            detail = {"follow": row.follow, "serial": row.serial, "offered": offered}
            audit.record(session, principal, "store.look", name, detail)
            row.offered = offered
            return installed(session, row)

    def examined(
        self,
        principal: Principal,
        cube: str,
        digest: str,
        verdict: Mapping[str, Any],
        in_transaction: InTransaction,
    ) -> None:
        """Keep the gate's verdict on an adapter; one that has passed is in use from now on if its bundle is.

        Raises:
            Conflict: the bundle has another content of the cube by now, which has an exam of its own.
        """
        with self._changing() as session:
            in_transaction(session)
            query = select(BundleCubeRow).where(BundleCubeRow.cube_id == cube)
            member = session.scalars(query.with_for_update()).first()
            if member is None or member.digest != digest:
                raise Conflict("the bundle was changed meanwhile: its new adapter has its own exam")
            bundle_gates.note(member, verdict)
            row = session.get_one(BundleRow, member.bundle_id)
            if row.state == BundleState.ACTIVE:
                for patch in bundle_gates.activations(session, principal, member, row):
                    self._vault.update_in(session, principal, cube, patch)
                if verdict["outcome"] == bundle_gates.PASSED:
                    _queue_heads(session, row)
            detail = {"cube": member.local, "digest": digest, "outcome": verdict["outcome"]}
            audit.record(session, principal, "store.gate", row.name, detail)

    # -- inside -----------------------------------------------------------------------------------

    def _add(
        self,
        session: Session,
        principal: Principal,
        row: BundleRow,
        local: str,
        digest: str,
        new: NewCube,
    ) -> None:
        is_used = row.state == BundleState.ACTIVE and new.payload.type != "parametric"
        state = State.ACTIVATED if is_used else State.GENERATED
        meta = new.meta.model_copy(update={"state": state, **self._use(row)})
        cube = self._vault.create_in(session, principal, new.model_copy(update={"meta": meta}))
        session.add(
            BundleCubeRow(cube_id=cube.meta.id, bundle_id=row.id, local=local, digest=digest)
        )

    def _replaced(
        self, session: Session, principal: Principal, row: BundleRow, cube: str, digest: str
    ) -> None:
        """The content of a cube is another one: an adapter is out of use until that has passed."""
        member = session.get_one(BundleCubeRow, cube)
        member.digest = digest
        patch = bundle_gates.changed(session, principal, member, row)
        if patch is not None:
            self._vault.update_in(session, principal, cube, patch)

    @contextmanager
    def _changing(self) -> Iterator[Session]:
        with self._database.write() as session, changing(session):
            yield session

    def _row_for(self, session: Session, principal: Principal, change: Change) -> BundleRow:
        row = find(session, principal.tenant, change.name, lock=True)
        version = row.version if row is not None and row.state != BundleState.REMOVED else None
        if version != change.over:
            raise Conflict(
                f"{change.name} was changed meanwhile: {version or 'it is not'} installed"
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
        if version is None:
            row.state, row.installed_us = BundleState.QUARANTINED, now_us()
            row.readers = list(change.readers) if change.readers is not None else None
            take_over(row, change)
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


def _queue_heads(session: Session, row: BundleRow) -> None:
    """Have an engine build the KV of the tenant's prompts, where the bundle stands in all of them."""
    is_placed = any(cube["placement"] == Placement.STABLE for cube in row.config["cubes"])
    if is_placed and row.state == BundleState.ACTIVE:
        JobStore.renew_in(session, HEADS, row.tenant)


def _queue_exams(
    session: Session,
    principal: Principal,
    row: BundleRow,
    trusted: bool = False,
    *,
    again: bool = False,
) -> None:
    """Queue the exams of adapters without a verdict.

    Args:
        trusted: those that have not passed need none.
        again: also of those whose exam has failed.
    """
    exams = {cube["name"]: cube.get("exam", []) for cube in row.config["cubes"]}
    for member in member_rows(session, row):
        if trusted:
            bundle_gates.trust(session, principal, member)
        else:
            bundle_gates.queue(session, principal, member, exams.get(member.local, []), again=again)
