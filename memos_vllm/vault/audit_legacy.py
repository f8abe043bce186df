"""The audit log of the versions up to 0.1: one unkeyed hash chain per tenant, only verified."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import TenantId, canonical_json, sha256
from memos_vllm.vault.tables import AuditEntryRow, AuditRow, TenantRow


def problems(session: Session, tenant: TenantId) -> list[str]:
    """What is wrong with the old chain, whose end the first record of the new log names."""
    previous, count = "", 0
    for row in session.scalars(
        select(AuditRow).where(AuditRow.tenant == tenant).order_by(AuditRow.seq)
    ):
        fields = [
            row.previous,
            row.at_us,
            row.tenant,
            row.actor,
            row.action,
            row.object,
            row.detail,
        ]
        if row.previous != previous or sha256(canonical_json(fields)) != row.digest:
            return [f"record {row.seq} of the old log was changed"]
        previous, count = row.digest, count + 1
    begin = session.scalar(
        select(AuditEntryRow.detail)
        .where(AuditEntryRow.tenant == tenant, AuditEntryRow.action == "audit.begin")
        .order_by(AuditEntryRow.leaf)
        .limit(1)
    )
    if begin is None:
        head = session.get(TenantRow, tenant)
        begin = {"digest": head.audit_digest if head else "", "records": count}
    if begin != {"digest": previous, "records": count}:
        return ["records are missing at the end of the old log"]
    return []
