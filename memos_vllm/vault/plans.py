"""Store of the plans that `explain` shows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Set
from typing import Any

from sqlalchemy import Text, cast, delete, or_, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit, fence, records
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import CubeRow, PlanRow

_TRIM_EVERY = 64
_SQL_BATCH = 500
_CUBES = 50
"""Deleted cubes that one query looks for."""
_PATIENCE_SECONDS = 5.0
"""Wait of `get` for a plan that is being stored."""


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
