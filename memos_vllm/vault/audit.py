"""Audit log: one hash chain per tenant, written in the transaction of the change that it records.

`digest = SHA-256(previous digest + the record)`.  A record that was changed, removed or inserted later
breaks the chain, and `verify` returns its `seq`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import TenantId, canonical_json, now_us, sha256, to_datetime
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import AuditRow, TenantRow


def record(
    session: Session, tenant: TenantId, actor: str, action: str, target: str, detail: dict[str, Any]
) -> None:
    """Append to the tenant's chain; the tenant's row is locked until the transaction ends."""
    row = session.get(TenantRow, tenant, with_for_update=True)
    if row is None:
        row = TenantRow(id=tenant, created_us=now_us(), audit_digest="")
        session.add(row)
        session.flush()
    entry = AuditRow(
        at_us=now_us(),
        tenant=tenant,
        actor=actor,
        action=action,
        object=target,
        detail=detail,
        previous=row.audit_digest,
        digest="",
    )
    entry.digest = _digest(entry)
    row.audit_digest = entry.digest
    session.add(entry)


class AuditLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, principal: Principal, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Records of the principal's tenant, oldest first. Needs the role `admin`."""
        principal.require(Role.ADMIN)
        with self._database.read() as session:
            rows = session.scalars(
                select(AuditRow)
                .where(AuditRow.tenant == principal.tenant, AuditRow.seq > after)
                .order_by(AuditRow.seq)
                .limit(limit)
            )
            return [_public(row) for row in rows]

    def verify(self, principal: Principal) -> int | None:
        """Check the chain.

        Returns:
            None: it is whole. 0: records are missing at its end (the last digest is not the tenant's).
            Else the `seq` of the first record that does not fit.
        """
        principal.require(Role.ADMIN)
        previous = ""
        with self._database.read() as session:
            head = session.get(TenantRow, principal.tenant)
            for row in session.scalars(
                select(AuditRow).where(AuditRow.tenant == principal.tenant).order_by(AuditRow.seq)
            ):
                if row.previous != previous or _digest(row) != row.digest:
                    return row.seq
                previous = row.digest
        return None if previous == (head.audit_digest if head else "") else 0


def _digest(row: AuditRow) -> str:
    return sha256(
        canonical_json(
            [row.previous, row.at_us, row.tenant, row.actor, row.action, row.object, row.detail]
        )
    )


def _public(row: AuditRow) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "at": to_datetime(row.at_us).isoformat(),
        "actor": row.actor,
        "action": row.action,
        "object": row.object,
        "detail": row.detail,
        "previous": row.previous,
        "digest": row.digest,
    }
