"""Lookup of claims by subject and attribute, at present or at a time in the past."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select

from memos_vllm.cube.ids import CubeId, PersonId, TenantId
from memos_vllm.cube.lifecycle import READABLE
from memos_vllm.cube.model import Item, plain
from memos_vllm.governance.permit import Permission
from memos_vllm.governance.principal import Principal, Role, persona_of
from memos_vllm.vault import fence, records
from memos_vllm.vault.database import Database
from memos_vllm.vault.past_memory import PastMemory
from memos_vllm.vault.tables import CubeRow, ItemRow


@dataclasses.dataclass(frozen=True, slots=True)
class Claimed:
    cube: CubeId
    item: Item


class Knowledge:
    def __init__(self, database: Database) -> None:
        self._database = database

    def holding(self, principal: Principal, keys: Iterable[str]) -> list[CubeId]:
        """The person's own cubes, in their persona, with claims of these keys, oldest first."""
        # No DISTINCT over cubes: Postgres does not compare their JSON.
        claiming = select(ItemRow.cube_id).where(
            ItemRow.tenant == principal.tenant,
            ItemRow.person == principal.person,
            ItemRow.claim_key.in_(set(keys)),
        )
        query = (
            select(CubeRow)
            .where(
                CubeRow.id.in_(claiming),
                records.visible_to(principal),
                CubeRow.state.in_(READABLE),
            )
            .order_by(CubeRow.created_us, CubeRow.id)
        )
        with self._database.read() as session:
            return [
                CubeId(row.id)
                for row in session.scalars(query)
                if persona_of(row.tags) == principal.persona
            ]

    def is_named(self, principal: Principal, name: str) -> bool:
        """Whether the person owns a cube of this name, in any state and persona."""
        query = select(CubeRow.id).where(
            CubeRow.tenant == principal.tenant,
            CubeRow.person == principal.person,
            CubeRow.name == name,
            records.visible_to(principal),
        )
        with self._database.read() as session:
            return session.scalar(query) is not None

    def own_items(self, principal: Principal) -> list[tuple[CubeId, Item]]:
        """(cube, item) of all the person's own cubes, in every state and persona, the oldest cube first."""
        query = (
            select(*ItemRow.__table__.columns)
            .join(CubeRow, CubeRow.id == ItemRow.cube_id)
            .where(
                ItemRow.tenant == principal.tenant,
                ItemRow.person == principal.person,
                records.visible_to(principal),
            )
            .order_by(CubeRow.created_us, CubeRow.id, ItemRow.ordinal)
        )
        with self._database.read() as session:
            return [
                (CubeId(row.cube_id), item)
                for row in session.execute(query.execution_options(yield_per=1000))
                if (item := records.item_model(row)) is not None
            ]

    def owner(self, cube: str) -> Principal | None:
        """Owner of a person's cube, as the principal of jobs on it; None: deleted, or shared."""
        with self._database.read() as session:
            epoch = fence.serial(session)
            row = session.get(CubeRow, cube)
            if row is None or not row.person:
                return None
            owner = Principal(
                TenantId(row.tenant), Role.WRITER, "", PersonId(row.person), epoch=epoch
            )
            return owner.in_persona(persona_of(row.tags))

    def claims(
        self,
        principal: Principal,
        subject: str | None = None,
        attribute: str | None = None,
        at: datetime | None = None,
        limit: int = 200,
        offset: int = 0,
    ) -> list[Claimed]:
        """Claims of the person's memory, newest first, ended ones included.

        Args:
            attribute: this attribute, and those that begin with it and a colon or a full stop.
            at: only claims that are valid at this time.
            offset: claims to leave out, of those that are wanted.
        """
        query = (
            select(ItemRow)
            .join(CubeRow, CubeRow.id == ItemRow.cube_id)
            .where(
                ItemRow.tenant == principal.tenant,
                ItemRow.person == principal.person,
                ItemRow.claim_key.is_not(None),
                records.visible_to(principal, Permission.USE),
                CubeRow.state.in_(READABLE),
            )
            .order_by(ItemRow.time_us.desc(), ItemRow.id)
        )
        found: list[Claimed] = []
        with self._database.read() as session:
            for row in session.scalars(query.execution_options(yield_per=200)):
                item = records.item_model(row)
                if item is not None and _is_wanted(item, subject, attribute, at):
                    if offset > 0:
                        offset -= 1
                        continue
                    found.append(Claimed(CubeId(row.cube_id), item))
                    if len(found) == limit:
                        break
        return found


def claims_then(
    memory: PastMemory,
    person: str,
    subject: str | None = None,
    attribute: str | None = None,
    at: datetime | None = None,
    limit: int = 200,
    offset: int = 0,
) -> list[Claimed]:
    """Claims of a person in the memory of a past moment, as `Knowledge.claims`."""
    found = [
        Claimed(CubeId(cube.row.id), item)
        for cube in memory.cubes
        if cube.row.person == person
        for item in cube.items
        if _is_wanted(item, subject, attribute, at)
    ]
    return sorted(found, key=_age)[offset : offset + limit]


def _age(claimed: Claimed) -> tuple[float, str]:
    """The newest first, those without a time last."""
    time = claimed.item.time
    return (-time.timestamp() if time is not None else math.inf, claimed.item.id or "")


def _is_wanted(item: Item, subject: str | None, attribute: str | None, at: datetime | None) -> bool:
    claim = item.claim
    if claim is None or (subject is not None and plain(claim.subject) != plain(subject)):
        return False
    if attribute is not None:
        own = claim.attribute or ""
        if own != attribute and not own.startswith((f"{attribute}:", f"{attribute}.")):
            return False
    if at is None:
        return True
    begins = claim.begins or item.time
    return (begins is None or begins <= at) and (claim.ends is None or at < claim.ends)
