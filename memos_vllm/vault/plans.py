"""Store of the plans that `explain` shows."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Set
from typing import Any

from sqlalchemy import Text, and_, cast, delete, or_, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit, cursors, fence, records
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow, ItemRow, PlanRow

_TRIM_EVERY = 64
_SQL_BATCH = 500
_CUBES = 50
"""Deleted cubes that one query looks for."""
_PATIENCE_SECONDS = 5.0
"""Wait of `get` for a plan that is being stored."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoredPlan:
    request_id: str
    person: str
    created_us: int
    plan: dict[str, Any]


def forget_cubes(session: Session, tenant: str, cubes: Set[str]) -> int:
    """Remove the names of deleted cubes from all plans of a tenant; returns how many plans had one."""
    changed = 0
    ids = sorted(cubes)
    for start in range(0, len(ids), _CUBES):
        part = set(ids[start : start + _CUBES])
        mentions = [cast(PlanRow.plan, Text).contains(cube, autoescape=True) for cube in part]
        for row in session.scalars(select(PlanRow).where(PlanRow.tenant == tenant, or_(*mentions))):
            entries = [
                {**entry, "name": None} if entry.get("cube") in part else entry
                for entry in row.plan.get("entries", ())
            ]
            if entries != row.plan.get("entries"):
                row.plan = {**row.plan, "entries": entries}
                changed += 1
    return changed


class PlanStore:
    """The newest plans of each tenant. A plan holds ids, scores and reasons, never text."""

    def __init__(self, database: Database, keep_per_tenant: int) -> None:
        self._database = database
        self._keep = keep_per_tenant
        self._writes = 0
        self._expected: dict[tuple[str, str | None, str], threading.Event] = {}

    def expect(self, principal: Principal, request_id: str) -> None:
        """Announce a plan before its reply ends: until `put` has ended, `get` waits for it."""
        key = (principal.tenant, principal.person, request_id)
        self._expected.setdefault(key, threading.Event())  # clients choose ids, and may repeat them

    @contextlib.contextmanager
    def _ending(self, principal: Principal, request_id: str) -> Iterator[None]:
        try:
            yield
        finally:
            stored = self._expected.pop((principal.tenant, principal.person, request_id), None)
            if stored is not None:
                stored.set()

    def put(self, principal: Principal, request_id: str, plan: dict[str, Any]) -> None:
        with self._ending(principal, request_id):
            self._put(principal, request_id, plan)

    def _put(self, principal: Principal, request_id: str, plan: dict[str, Any]) -> None:
        row = PlanRow(
            tenant=principal.tenant,
            request_id=request_id[:300],
            person=principal.person,
            created_us=now_us(),
            plan=plan,
        )
        self._writes += 1
        used = [entry for entry in plan.get("entries", []) if entry.get("decision") == "used"]
        with self._database.write() as session:
            fence.check(session, principal, principal.person)
            if used:
                cubes = sorted({f"{entry['cube']}@{entry['version']}" for entry in used})
                detail = {"person": principal.person, "cubes": cubes}
                audit.record(session, principal, "memory.read", "prompt", detail, request_id)
            known = session.get(PlanRow, (row.tenant, row.request_id))
            if known is not None and known.person != row.person:
                return  # a request id belongs to the person who used it first
            session.merge(row)
            if self._writes % _TRIM_EVERY == 0:
                oldest_stored = session.scalar(
                    select(PlanRow.created_us)
                    .where(PlanRow.tenant == principal.tenant)
                    .order_by(PlanRow.created_us.desc())
                    .offset(self._keep)
                    .limit(1)
                )
                if oldest_stored is not None:
                    session.execute(
                        delete(PlanRow).where(
                            PlanRow.tenant == principal.tenant, PlanRow.created_us <= oldest_stored
                        )
                    )

    def get(self, principal: Principal, request_id: str) -> dict[str, Any]:
        """The plan of a request; waits for one that is being stored.

        Raises:
            NotFound: an unknown id, or another person's (unless an admin asks).
        """
        expected = self._expected.get((principal.tenant, principal.person, request_id))
        if expected is not None:
            expected.wait(_PATIENCE_SECONDS)
        with self._database.read() as session:
            row = session.get(PlanRow, (principal.tenant, request_id))
            if row is None or not (row.person == principal.person or principal.can(Role.ADMIN)):
                raise NotFound(
                    f"no plan is stored for the request {request_id!r}; ids are those of the replies, and "
                    "the person who asks must be the one who chatted",
                    param="request_id",
                )
            return _named(session, principal, dict(row.plan))

    def page(
        self, principal: Principal, cursor: str | None = None, limit: int = 50
    ) -> tuple[list[StoredPlan], str | None]:
        """Plans of the principal's person, newest first, and the cursor of the next page (None: the last).

        Without a person: for an admin those of the whole tenant, else those of requests without one.
        """
        query = select(PlanRow).where(PlanRow.tenant == principal.tenant)
        if principal.person or not principal.can(Role.ADMIN):
            query = query.where(PlanRow.person == principal.person)
        if cursor:
            at, request = cursors.decode(cursor)
            same = and_(PlanRow.created_us == at, PlanRow.request_id < request)
            query = query.where(or_(PlanRow.created_us < at, same))
        query = query.order_by(PlanRow.created_us.desc(), PlanRow.request_id.desc())
        with self._database.read() as session:
            found = [
                StoredPlan(row.request_id, row.person, row.created_us, dict(row.plan))
                for row in session.scalars(query.limit(limit + 1))
            ]
        is_last = len(found) <= limit
        end = (
            None
            if is_last
            else cursors.at(found[limit - 1].created_us, found[limit - 1].request_id)
        )
        return found[:limit], end

    def question(self, principal: Principal, request_id: str) -> str | None:
        """What the principal's person said in a request; None: it is not remembered, or not readable."""
        query = (
            select(ItemRow.text)
            .join(CubeRow, CubeRow.id == ItemRow.cube_id)
            .where(
                ItemRow.tenant == principal.tenant,
                ItemRow.person == principal.person,
                ItemRow.source == f"{request_id}:user",
                records.visible_to(principal),
            )
        )
        with self._database.read() as session:
            return session.scalars(query.limit(1)).first()


def _named(session: Session, principal: Principal, plan: dict[str, Any]) -> dict[str, Any]:
    """The plan with names of those cubes only that the principal may read now."""
    entries = [dict(entry) for entry in plan.get("entries", [])]
    ids = sorted({entry["cube"] for entry in entries})
    seen: set[str] = set()
    for start in range(0, len(ids), _SQL_BATCH):
        batch = ids[start : start + _SQL_BATCH]
        query = select(CubeRow.id).where(CubeRow.id.in_(batch), records.visible_to(principal))
        seen.update(session.scalars(query))
    for entry in entries:
        if entry["cube"] not in seen:
            entry["name"] = None
    return plan | {"entries": entries} if entries else plan
