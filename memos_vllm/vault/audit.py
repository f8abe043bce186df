"""Audit log, writing: a record is written in the transaction of what it records.

Each record continues one of the tenant's chains (shards): its MAC covers the MAC before it, under a key
that the database does not hold.  A transaction takes a chain that no other one holds, so writers of one
tenant do not wait for one another, and a rollback leaves no gap.  `audit_log` puts the records of all
chains into one order.

People stand in it under random pseudonyms, whose names `forget_person` erases.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import PersonId, TenantId, canonical_json, now_us
from memos_vllm.governance import audit_record
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import fence
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditPersonRow, AuditRow, AuditShardRow
from memos_vllm.vault.tables import TenantRow

WRITTEN = "audit_written"
"""Key in `Session.info`: records of this transaction."""
_ID_LENGTH = 128


def record(
    session: Session,
    principal: Principal,
    action: str,
    target: str,
    detail: dict[str, Any],
    request_id: str = "",
) -> None:
    """Append to one of the tenant's chains. Raises Erased: the work began before a person's erasure.

    Args:
        target: an id.
        detail: ids and numbers, no text; `person` is the owner of the memory.
    """
    fence.check(session, principal, principal.person, detail.get("person", ""))
    rest = dict(detail)
    if principal.token_id:
        rest["token"] = principal.token_id
    owner = rest.pop("person", "")
    shard = _shard(session, principal.tenant)
    key = session.info[AuditKeys].current
    shard.at_us = max(now_us(), shard.at_us)
    entry = AuditEntryRow(
        shard=shard.shard,
        number=shard.count + 1,
        tenant=principal.tenant,
        at_us=shard.at_us,
        key_id=principal.key_id,
        person=pseudonym(session, principal.tenant, principal.person),
        owner=pseudonym(session, principal.tenant, owner),
        request_id=(request_id or principal.request_id)[:_ID_LENGTH],
        action=action,
        object=target[:_ID_LENGTH],
        detail=rest,
        mac_key=key.id,
        mac="",
    )
    entry.mac = key.mac(message(entry, shard.head))
    shard.count, shard.head = entry.number, entry.mac
    session.add(entry)
    session.flush()
    session.info[WRITTEN] = session.info.get(WRITTEN, 0) + 1


def message(entry: AuditEntryRow, previous: str) -> bytes:
    """What the MAC of a record covers."""
    return audit_record.message(fields_of(entry), previous)


def leaf_of(entry: AuditEntryRow) -> bytes:
    """Leaf of a record in its tenant's Merkle tree."""
    return audit_record.leaf_of({**fields_of(entry), "mac": entry.mac})


def fields_of(entry: AuditEntryRow) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in audit_record.FIELDS}


def pseudonym(session: Session, tenant: str, person: str) -> str:
    """The person's pseudonym in the log, made on first use; empty for no person."""
    if not person:
        return ""
    query = select(AuditPersonRow.pseudonym).where(
        AuditPersonRow.tenant == tenant, AuditPersonRow.person == person
    )
    if (known := session.scalar(query)) is not None:
        return known
    name, key = f"p_{secrets.token_hex(12)}", session.info[AuditKeys].current
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    session.execute(
        insert(AuditPersonRow)
        .values(
            tenant=tenant,
            person=person,
            pseudonym=name,
            mac_key=key.id,
            mac=key.mac(name_message(tenant, name, person)),
        )
        .on_conflict_do_nothing(index_elements=["tenant", "person"])
    )
    return session.scalar(query) or name


def name_message(tenant: str, name: str, person: str) -> bytes:
    """What the MAC of a pseudonym's row covers."""
    return canonical_json(["memos-audit-person-1", tenant, name, person])


def pseudonym_of(session: Session, tenant: TenantId, person: PersonId) -> str | None:
    """The person's pseudonym; None: the log has none."""
    return session.scalar(
        select(AuditPersonRow.pseudonym).where(
            AuditPersonRow.tenant == tenant, AuditPersonRow.person == person
        )
    )


def forget_person(session: Session, tenant: TenantId, person: PersonId) -> str | None:
    """Erase the name behind a person's pseudonym, and record that.

    Returns:
        The pseudonym; None: the log has none for the person.
    """
    at = (AuditPersonRow.tenant == tenant, AuditPersonRow.person == person)
    name = session.scalar(select(AuditPersonRow.pseudonym).where(*at))
    if name is not None:
        session.execute(delete(AuditPersonRow).where(*at))
        record(session, Principal(tenant, Role.ADMIN, "erasure"), "audit.forget", name, {})
    return name


def _shard(session: Session, tenant: TenantId) -> AuditShardRow:
    """A chain that no other transaction holds, locked until the end of this one."""
    held: dict[str, AuditShardRow] = session.info.setdefault("audit_shards", {})
    if tenant in held:
        return held[tenant]
    free = select(AuditShardRow).where(AuditShardRow.tenant == tenant).order_by(AuditShardRow.shard)
    row = session.scalar(free.limit(1).with_for_update(skip_locked=True))
    is_new = row is None
    if row is None:
        row = AuditShardRow(shard=secrets.token_hex(16), tenant=tenant, count=0, at_us=0, head="")
        session.add(row)
        session.flush()
    held[tenant] = row
    old = session.get(TenantRow, tenant) if is_new else None
    if old is not None and old.audit_digest:
        records = session.scalar(
            select(func.count()).select_from(AuditRow).where(AuditRow.tenant == tenant)
        )
        detail = {"digest": old.audit_digest, "records": records}
        record(session, Principal(tenant, Role.ADMIN, "upgrade"), "audit.begin", "audit", detail)
    return row
