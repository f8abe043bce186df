"""The audit log of the versions up to 0.1: one unkeyed hash chain per tenant, only verified.

An erasure removes a person's name from its records.  Such a record keeps its digest, so the chain still
holds, and the keyed log names it: a record without its content that the keyed log does not name is a change.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import TenantId, canonical_json, sha256
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import audit
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditRow
from memos_vllm.vault.tables import TenantRow

_REDACTED = "erased:"
_REDACT = "audit.redact"


def problems(session: Session, tenant: TenantId) -> list[str]:
    """What is wrong with the old chain, whose end the first record of the new log names."""
    previous, count, redacted = "", 0, _redacted(session, tenant)
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
        is_redacted = row.actor.startswith(_REDACTED) and row.seq in redacted
        is_whole = is_redacted or sha256(canonical_json(fields)) == row.digest
        if row.previous != previous or not is_whole:
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


def count(session: Session, tenant: str, person: str) -> int:
    """Records that name a person."""
    return len(_naming(session, tenant, person))


def redact(session: Session, caller: Principal, person: str, name: str) -> None:
    """Remove a person's name from the records, and record which ones.

    Args:
        name: pseudonym that stands for it.
    """
    rows = _naming(session, caller.tenant, person)
    for row in rows:
        row.actor, row.detail = f"{_REDACTED}{name}", {}
    for start in range(0, len(rows), 500):
        numbers = [row.seq for row in rows[start : start + 500]]
        audit.record(session, caller, _REDACT, "audit", {"records": numbers})


def _redacted(session: Session, tenant: str) -> set[int]:
    details = session.scalars(
        select(AuditEntryRow.detail).where(
            AuditEntryRow.tenant == tenant, AuditEntryRow.action == _REDACT
        )
    )
    return {number for detail in details for number in detail["records"]}


def _naming(session: Session, tenant: str, person: str) -> list[AuditRow]:
    query = select(AuditRow).where(AuditRow.tenant == tenant).order_by(AuditRow.seq)
    return [
        row for row in session.scalars(query) if row.actor == person or _holds(row.detail, person)
    ]


def _holds(value: Any, person: str) -> bool:
    if isinstance(value, dict):
        return any(_holds(each, person) for each in value.values())
    if isinstance(value, list):
        return any(_holds(each, person) for each in value)
    return bool(value == person)
