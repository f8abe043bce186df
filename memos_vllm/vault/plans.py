"""Store of the plans that `explain` shows."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import PlanRow

_TRIM_EVERY = 64


class PlanStore:
    """The newest plans of each tenant. A plan holds ids, scores and reasons, never text."""

    def __init__(self, database: Database, keep_per_tenant: int) -> None:
        self._database = database
        self._keep = keep_per_tenant
        self._writes = 0

    def put(self, principal: Principal, request_id: str, plan: dict[str, Any]) -> None:
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
        """Raises NotFound for an unknown id and for another person's (unless an admin asks)."""
        with self._database.read() as session:
            row = session.get(PlanRow, (principal.tenant, request_id))
            if row is None or not (row.person == principal.person or principal.can(Role.ADMIN)):
                raise NotFound(
                    f"no plan is stored for the request {request_id!r}; ids are those of the replies, and "
                    "the person who asks must be the one who chatted",
                    param="request_id",
                )
            return dict(row.plan)
