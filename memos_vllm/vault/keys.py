"""API keys in the vault: create, authenticate, list, revoke."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from sqlalchemy import func, select

from memos_vllm.cube.ids import TenantId, now_us
from memos_vllm.errors import BadRequest, NotFound, Unauthorized
from memos_vllm.governance import secrets, tokens
from memos_vllm.governance.principal import Principal, Role, Scope
from memos_vllm.vault.audit import record
from memos_vllm.vault.console_sessions import ConsoleSessions
from memos_vllm.vault.database import Database
from memos_vllm.vault.person_tokens import PersonTokens
from memos_vllm.vault.secret_ring import SecretRing
from memos_vllm.vault.tables import KeyRow

_TENANT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRecord:
    id: str
    tenant: str
    role: Role
    label: str
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    scopes: list[str] | None = None
    """None: every scope."""


class KeyRing:
    def __init__(self, database: Database, ring: SecretRing | None = None) -> None:
        self._database = database
        self.secrets = ring or SecretRing(database)
        self.tokens = PersonTokens(database, self.secrets)
        self.sessions = ConsoleSessions(database, self.secrets)

    def create(
        self,
        tenant: str,
        role: Role,
        *,
        label: str = "",
        ttl_seconds: int | None = None,
        scopes: Sequence[str] | None = None,
        by: Principal | None = None,
    ) -> tuple[KeyRecord, str]:
        """Create a key; the vault stores only its digest, so its string is returned this once.

        Args:
            by: who makes it, for the audit log; None: the operator.
        """
        if not _TENANT.match(tenant):
            raise BadRequest(
                "a tenant is named by 1 to 63 letters, digits, dots, dashes and underscores",
                param="tenant",
            )
        fresh, created = secrets.make_key(), now_us()
        row = KeyRow(
            id=fresh.id,
            tenant=tenant,
            role=role,
            label=label,
            digest=fresh.digest,
            created_us=created,
            expires_us=created + ttl_seconds * 1_000_000 if ttl_seconds else None,
            revoked_us=None,
            scopes=sorted(tokens.check_scopes(scopes)) if scopes else None,
        )
        with self._database.write() as session:
            session.add(row)
            record(session, by or _operator(tenant), "key.create", fresh.id, {"role": role})
        return _record(row), fresh.key

    def authenticate(self, key: str) -> Principal:
        """Principal of a key or of a person token.

        Raises:
            Unauthorized: unknown, revoked or expired; the three look the same.
        """
        if tokens.is_token(key):
            return self.tokens.authenticate(key)
        key_id = secrets.key_id(key)
        with self._database.read() as session:
            row = session.get(KeyRow, key_id) if key_id else None
        # An unknown id is compared, too, with a digest that matches no key: both take equal time.
        known = secrets.matches(key, row.digest if row else "0" * 64)
        old = row.old_digest if row and (row.old_until_us or 0) > now_us() else None
        known |= secrets.matches(key, old or "0" * 64)
        if row is None or not known or row.revoked_us or _expired(row):
            raise Unauthorized("the API key is not valid: it is unknown, revoked or expired")
        return Principal(
            TenantId(row.tenant),
            Role(row.role),
            row.id,
            scopes=frozenset(map(Scope, row.scopes)) if row.scopes is not None else None,
            expires_us=_end_of(row, key),
        )

    def any(self) -> bool:
        """Whether any key was ever created, revoked or not: from then on every request needs one."""
        with self._database.read() as session:
            return bool(session.scalar(select(func.count()).select_from(KeyRow)))

    def list(self, tenant: str | None = None) -> list[KeyRecord]:
        query = select(KeyRow).order_by(KeyRow.created_us)
        if tenant:
            query = query.where(KeyRow.tenant == tenant)
        with self._database.read() as session:
            return [_record(row) for row in session.scalars(query)]

    def rotate(self, key_id: str, grace_seconds: int) -> tuple[KeyRecord, str]:
        """Give a key a new secret; the one before counts for `grace_seconds` more.

        Raises:
            NotFound: there is no such key, or it is revoked or expired.
        """
        if grace_seconds < 0:
            raise BadRequest("the grace time is 0 seconds or more", param="grace")
        with self._database.write() as session:
            row = session.get(KeyRow, key_id, with_for_update=True)
            if row is None or row.revoked_us or _expired(row):
                raise NotFound(f"there is no active key {key_id}; `memos keys list` shows them")
            fresh = secrets.make_key(row.id)
            row.old_digest, row.digest = row.digest, fresh.digest
            row.old_until_us = now_us() + grace_seconds * 1_000_000
            detail = {"grace_seconds": grace_seconds}
            record(session, _operator(row.tenant), "key.rotate", key_id, detail)
            return _record(row), fresh.key

    def revoke(self, key_id: str, *, by: Principal | None = None) -> KeyRecord:
        """Revoke a key permanently.

        Args:
            by: who revokes a key of its own tenant, for the audit log; None: the operator, a key of any tenant.

        Raises:
            NotFound
        """
        with self._database.write() as session:
            row = session.get(KeyRow, key_id)
            if row is None or (by is not None and row.tenant != by.tenant):
                raise NotFound(f"there is no key {key_id}; `memos keys list` shows them")
            if row.revoked_us is None:
                row.revoked_us = now_us()
                record(session, by or _operator(row.tenant), "key.revoke", key_id, {})
            return _record(row)


def _end_of(row: KeyRow, key: str) -> int | None:
    """When this secret of a key ends: with the key, or with its grace time."""
    if secrets.matches(key, row.digest):
        return row.expires_us
    ends = [end for end in (row.old_until_us, row.expires_us) if end is not None]
    return min(ends)


def _operator(tenant: str) -> Principal:
    return Principal(TenantId(tenant), Role.ADMIN, "operator")


def _expired(row: KeyRow) -> bool:
    return row.expires_us is not None and row.expires_us <= now_us()


def _record(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        row.id,
        row.tenant,
        Role(row.role),
        row.label,
        row.created_us,
        row.expires_us,
        row.revoked_us,
        list(row.scopes) if row.scopes is not None else None,
    )
