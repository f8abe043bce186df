"""Rows of installed bundles, as part of a caller's transaction, and what is read of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.bundle import BundleState, Follow
from memos_vllm.cube.ids import CubeId, now_us
from memos_vllm.cube.model import CubePatch, Kind, NewCube
from memos_vllm.errors import NotFound
from memos_vllm.vault import bundle_gates
from memos_vllm.vault.bundle_tables import BundleCubeRow, BundleRow


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
    gates: Mapping[str, Mapping[str, Any]]
    """Adapter → what the gate of this server said of its content; empty: its exam waits."""


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


def take_over(row: BundleRow, change: Change) -> None:
    if change.version in row.history:  # back to it: what came behind it is no past any more
        row.history = row.history[: row.history.index(change.version)]
    elif change.over not in (None, change.version):
        row.history = [*row.history, change.over]
    row.source, row.fingerprint = change.source, change.fingerprint
    row.version, row.digest, row.config = change.version, change.digest, dict(change.config)
    row.serial, row.highest = max(row.serial or 0, change.serial), change.highest
    row.follow, row.offered, row.changed_us = change.follow, None, now_us()


def find(session: Session, tenant: str, name: str, *, lock: bool = False) -> BundleRow | None:
    query = select(BundleRow).where(BundleRow.tenant == tenant, BundleRow.name == name)
    return session.scalars(query.with_for_update() if lock else query).first()


def locked(session: Session, tenant: str, name: str) -> BundleRow:
    row = find(session, tenant, name, lock=True)
    if row is None or row.state == BundleState.REMOVED:
        raise NotFound(f"the bundle {name} is not installed", param="name")
    return row


def members(session: Session, row: BundleRow) -> dict[str, str]:
    return {member.local: member.cube_id for member in member_rows(session, row)}


def member_rows(session: Session, row: BundleRow) -> list[BundleCubeRow]:
    query = select(BundleCubeRow).where(BundleCubeRow.bundle_id == row.id)
    return list(session.scalars(query.order_by(BundleCubeRow.local)))


def installed(session: Session, row: BundleRow) -> Installed:
    members = member_rows(session, row)
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
        cubes={each.local: (CubeId(each.cube_id), each.digest) for each in members},
        gates={
            each.local: bundle_gates.verdict(each) for each in members if _is_adapter(row, each)
        },
    )


def _is_adapter(row: BundleRow, member: BundleCubeRow) -> bool:
    named = [each for each in row.config.get("cubes", []) if each["name"] == member.local]
    return any(each.get("kind") == Kind.PARAMETRIC for each in named)
