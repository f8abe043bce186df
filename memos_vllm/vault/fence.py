"""Fence of erasures: work for a person that began before their erasure writes nothing afterwards.

Each erasure has a serial number; a `Principal` carries the number of the last one when its work began
(`epoch`).  A transaction that writes for a person asks `check` first.  On Postgres it thereby holds a
shared lock that the erasure waits for, so each such transaction is wholly before or behind the erasure.
"""

from __future__ import annotations

import hashlib
import hmac

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.errors import Erased
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.salt import joined
from memos_vllm.vault.erasure_tables import ErasureRow
from memos_vllm.vault.tables import SettingRow

SUBJECT_KEY = "erasure_subjects"
_SERIALS = 0x6D656D6F75


def subject_key(session: Session) -> bytes:
    constants = session.info.setdefault("constants", {})
    if SUBJECT_KEY not in constants:
        row = session.get(SettingRow, SUBJECT_KEY)
        assert row is not None, "migration 0010 makes it"
        constants[SUBJECT_KEY] = bytes.fromhex(row.value)
    key: bytes = constants[SUBJECT_KEY]
    return key


def digest(key: bytes, tenant: str, person: str) -> str:
    """Keyed digest of a person, 64 hex characters."""
    return hmac.new(
        key, joined("memos-erasure-subject-1", tenant, person), hashlib.sha256
    ).hexdigest()


def subject(session: Session, tenant: str, person: str) -> str:
    return digest(subject_key(session), tenant, person)


def serial(session: Session) -> int:
    """Number of the last erasure. Read before the rows that the work begins with."""
    return session.scalar(select(func.max(ErasureRow.serial))) or 0


def check(session: Session, principal: Principal, *people: str) -> None:
    """Raise Erased where one of these people was erased after the principal's work began."""
    if principal.epoch is None and session.get_bind().dialect.name == "sqlite":
        return  # its writers come one after the other
    for person in sorted({person for person in people if person}):
        name = subject(session, principal.tenant, person)
        _lock(session, name, shared=True)
        if principal.epoch is None:
            continue
        last = select(func.max(ErasureRow.serial)).where(
            ErasureRow.tenant == principal.tenant, ErasureRow.subject == name
        )
        if (session.scalar(last) or 0) > principal.epoch:
            raise Erased


def close(session: Session, tenant: TenantId, person: PersonId) -> tuple[str, int]:
    """Wait for all writes for the person, and keep others out until the transaction ends.

    Returns:
        The person's digest, and the next serial number.
    """
    name = subject(session, tenant, person)
    _lock(session, name, shared=False)
    if session.get_bind().dialect.name != "sqlite":
        session.execute(select(func.pg_advisory_xact_lock(_SERIALS)))
    return name, serial(session) + 1


def _lock(session: Session, name: str, shared: bool) -> None:
    if session.get_bind().dialect.name == "sqlite":
        return  # its writers come one after the other
    held = session.info.setdefault("fence", set())
    if shared and name in held:
        return
    held.add(name)
    number = int.from_bytes(bytes.fromhex(name)[:8], "big", signed=True)
    lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
    session.execute(select(lock(number)))
