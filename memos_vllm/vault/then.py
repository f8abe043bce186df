"""Lookup of versions by time, and what forgetting leaves of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import CubeId, Sha256, TenantId
from memos_vllm.cube.model import Item, Kind, plain
from memos_vllm.errors import DamagedPayload
from memos_vllm.vault import contents
from memos_vllm.vault.payloads import PayloadStore
from memos_vllm.vault.tables import CubeRow, ForgettingRow, VersionRow

log = logging.getLogger(__name__)
_SQL_BATCH = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Horizon:
    """Limit of what a past moment may show of one owner's text."""

    last_us: int
    """Time of the last forgetting."""
    floors: Mapping[str, int]
    """Of the cubes that lost text: the first version without it."""
    known: frozenset[str]
    """Texts of the owner's memory right after the last forgetting, folded."""

    def admits(self, version: VersionRow, at_us: int, item: Item) -> bool:
        is_before = at_us < self.last_us or version.sequence < self.floors.get(version.cube_id, 0)
        return not is_before or plain(item.text) in self.known


def horizons(
    session: Session, payloads: PayloadStore, tenant: str, at_us: int, people: Iterable[str]
) -> dict[str, Horizon]:
    """By owner; an owner without one forgot nothing that matters to this moment."""
    found: dict[str, Horizon] = {}
    for person in people:
        rows = session.scalars(
            select(ForgettingRow).where(
                ForgettingRow.tenant == tenant, ForgettingRow.person == person
            )
        ).all()
        if not rows:
            continue
        last = max(row.at_us for row in rows)
        floors: dict[str, int] = {}
        for row in rows:
            floors[row.cube_id] = max(floors.get(row.cube_id, 0), row.sequence + 1)
        if last <= at_us and not _is_behind(session, floors, at_us):
            continue
        known = _known(session, payloads, (tenant, person), last, floors)
        found[person] = Horizon(last, floors, known)
    return found


def _is_behind(session: Session, floors: Mapping[str, int], at_us: int) -> bool:
    """Whether a moment lies before the first version without the text, of any cube that lost some."""
    for cube, sequence in floors.items():
        made = session.scalar(
            select(VersionRow.created_us).where(
                VersionRow.cube_id == cube, VersionRow.sequence == sequence
            )
        )
        if made is not None and at_us < made:
            return True
    return False


def _known(
    session: Session,
    payloads: PayloadStore,
    owner: tuple[str, str],
    last_us: int,
    floors: Mapping[str, int],
) -> frozenset[str]:
    """Texts of an owner's memory right after the last forgetting, in every state."""
    rows = session.scalars(
        select(CubeRow).where(
            CubeRow.tenant == owner[0],
            CubeRow.person == owner[1],
            CubeRow.kind == Kind.EXPLICIT,
            CubeRow.created_us <= last_us,
        )
    ).all()
    texts: set[str] = set()
    for row in rows:
        version, _ = version_at(session, row, last_us)
        if version.sequence < floors.get(row.id, 0):
            after = select(VersionRow).where(
                VersionRow.cube_id == row.id, VersionRow.sequence >= floors[row.id]
            )
            version = session.scalars(after.order_by(VersionRow.sequence).limit(1)).one()
        try:
            texts |= {plain(item.text) for item in content_of(payloads, row, version).items}
        except DamagedPayload as error:
            log.error("a damaged version counts as empty: %s", error)
    return frozenset(texts)


def version_at(session: Session, row: CubeRow, at_us: int) -> tuple[VersionRow, bool]:
    """(version of a moment, whether it is the one that was current then)."""
    return versions_at(session, [row], at_us)[row.id]


def versions_at(
    session: Session, rows: Sequence[CubeRow], at_us: int
) -> dict[str, tuple[VersionRow, bool]]:
    """By cube, as `version_at`."""
    found: dict[str, tuple[VersionRow, bool]] = {}
    for start in range(0, len(rows), _SQL_BATCH):
        ids = [row.id for row in rows[start : start + _SQL_BATCH]]
        for is_whole in (True, False):
            bound = VersionRow.cube_id.in_([each for each in ids if each not in found])
            chosen = func.max if is_whole else func.min
            made = select(VersionRow.cube_id, chosen(VersionRow.sequence).label("sequence"))
            made = made.where(bound, VersionRow.created_us <= at_us if is_whole else bound)
            one = made.group_by(VersionRow.cube_id).subquery()
            query = select(VersionRow).join(
                one,
                (VersionRow.cube_id == one.c.cube_id) & (VersionRow.sequence == one.c.sequence),
            )
            for version in session.scalars(query):
                found[version.cube_id] = (version, is_whole)
    return found


def content_of(payloads: PayloadStore, row: CubeRow, version: VersionRow) -> contents.Content:
    """Raises DamagedPayload."""
    digest = Sha256(version.payload_sha256)
    data = payloads.get(TenantId(row.tenant), CubeId(row.id), digest)
    return contents.of_file(row.kind, data, row.id)
