"""Person tokens in the vault: made by a key of the tenant, listed, revoked; rotation of the signing key.

A row is kept for each token until it expires, never the token itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from memos_vllm.config.secrets import PERSON_TOKENS
from memos_vllm.cube.ids import PersonId, TenantId, new_id, now_us
from memos_vllm.errors import BadRequest, Forbidden, NotFound, Unauthorized
from memos_vllm.governance import tokens
from memos_vllm.governance.principal import PERSONAL, Principal, Role, Scope, check_person
from memos_vllm.vault.audit import record
from memos_vllm.vault.database import Database
from memos_vllm.vault.secret_ring import SecretRing
from memos_vllm.vault.tables import KeyRow, PersonTokenRow, SettingRow
from memos_vllm.vault.upsert import insert_absent, put_setting

_KIDS = "person_token_kids"
_LOCAL = "local"


@dataclasses.dataclass(frozen=True, slots=True)
class TokenRecord:
    id: str
    person: str
    key_id: str
    scopes: list[str]
    created_us: int
    expires_us: int
    revoked_us: int | None


class PersonTokens:
    def __init__(self, database: Database, ring: SecretRing | None = None) -> None:
        self._database = database
        self._ring = ring or SecretRing(database)

    def create(
        self, caller: Principal, person: str, scopes: Iterable[str], ttl_seconds: int
    ) -> tuple[TokenRecord, str]:
        """Make a token for a person of the caller's tenant; its string is returned this once.

        Raises:
            Forbidden: the caller is no writer key, or lacks a scope itself.
            BadRequest: a bad name, scope or lifetime.
        """
        self._check_key(caller)
        wanted = tokens.check_scopes(scopes, PERSONAL)
        for scope in wanted:
            caller.require_scope(scope)
        if not 0 < ttl_seconds <= tokens.LONGEST_SECONDS:
            raise BadRequest(
                f"a person token lasts 1 to {tokens.LONGEST_SECONDS} seconds", param="ttl_seconds"
            )
        secret, created = self._ring.all(PERSON_TOKENS)[0], now_us()
        row = PersonTokenRow(
            id=new_id("token"),
            tenant=caller.tenant,
            person=check_person(person),
            key_id=caller.key_id,
            scopes=sorted(wanted),
            created_us=created,
            expires_us=(created // 1_000_000 + ttl_seconds) * 1_000_000,
            revoked_us=None,
        )
        claims = tokens.TokenClaims(
            row.id, row.tenant, row.person, row.key_id, wanted, row.expires_us
        )
        with self._database.write() as session:
            session.execute(delete(PersonTokenRow).where(PersonTokenRow.expires_us <= created))
            kid = self._kids(session, create=True)[0]
            session.add(row)
            detail = {"person": row.person, "scopes": row.scopes}
            record(session, caller, "token.create", row.id, detail)
        return _record(row), tokens.sign(secret, kid, claims, created)

    def authenticate(self, token: str) -> Principal:
        """Principal of a token: its person's, never an admin's.

        Raises:
            Unauthorized: forged, expired, revoked, or made by a key that does not count any more.
        """
        secrets = self._ring.all(PERSON_TOKENS)
        with self._database.read() as session:
            claims = tokens.verify(secrets, self._kids(session), token)
            row = session.get(PersonTokenRow, claims.id)
            key = session.get(KeyRow, claims.key_id)
        is_known = (
            row is not None
            and row.revoked_us is None
            and (row.tenant, row.person, row.key_id)
            == (claims.tenant, claims.person, claims.key_id)
        )
        if not is_known or key is None or key.tenant != claims.tenant or not _is_valid(key):
            raise Unauthorized("the person token is not valid: it is forged, expired or revoked")
        granted = claims.scopes
        if key.scopes is not None:
            granted &= {Scope(word) for word in key.scopes}
        writes = {Scope.WRITE, Scope.DELETE, Scope.SHARE} & granted and key.role != Role.READER
        return Principal(
            TenantId(claims.tenant),
            Role.WRITER if writes else Role.READER,
            claims.key_id,
            PersonId(claims.person),
            scopes=granted,
            token_id=claims.id,
            expires_us=claims.expires_us,
        )

    def of_person(self, caller: Principal, person: str) -> list[TokenRecord]:
        """Tokens of a person that have not expired, oldest first."""
        self._check_key(caller)
        query = select(PersonTokenRow).where(
            PersonTokenRow.tenant == caller.tenant,
            PersonTokenRow.person == check_person(person),
            PersonTokenRow.expires_us > now_us(),
        )
        with self._database.read() as session:
            ordered = query.order_by(PersonTokenRow.created_us, PersonTokenRow.id)
            return [_record(row) for row in session.scalars(ordered)]

    def revoke(self, caller: Principal, person: str, token_id: str) -> TokenRecord:
        """Raises NotFound: the person has no such token."""
        self._check_key(caller)
        with self._database.write() as session:
            row = session.get(PersonTokenRow, token_id)
            if row is None or (row.tenant, row.person) != (caller.tenant, person):
                raise NotFound(f"the person has no token {token_id!r}", param="token")
            if row.revoked_us is None:
                row.revoked_us = now_us()
                record(session, caller, "token.revoke", row.id, {"person": row.person})
            return _record(row)

    def rotate(self, operator_tenant: str = "operator") -> None:
        """Sign with a new key from now on; the older ones count until their last token has expired.

        Args:
            operator_tenant: whose audit log has the record, as the key is all tenants'.
        """
        operator = Principal(TenantId(operator_tenant), Role.ADMIN, "operator")
        with self._database.write() as session:
            kid = self._kids(session, create=True, rotate=True)[0]
            record(session, operator, "token.rotate", kid, {})

    # -- inside -----------------------------------------------------------------------------------

    @staticmethod
    def _check_key(caller: Principal) -> None:
        if caller.token_id:
            raise Forbidden("person tokens are managed by a key of the tenant, not by a token")
        if caller.key_id == _LOCAL:
            raise Forbidden(
                "person tokens need a key of a tenant: create one with `memos keys create`"
            )
        caller.require(Role.WRITER)

    @staticmethod
    def _kids(session: Session, *, create: bool = False, rotate: bool = False) -> list[str]:
        """Ids of the signing keys that count, the newest first.

        A key counts for the longest life of a token after its successor was made.
        """
        if create:  # one process makes the first key, and the others wait for it
            insert_absent(session, SettingRow, key=_KIDS, value="[]")
        row = session.get(SettingRow, _KIDS, with_for_update=create)
        kept: list[tuple[str, int]] = [(k, at) for k, at in json.loads(row.value)] if row else []
        if create and (rotate or not kept):
            kept = [(tokens.new_kid(), now_us()), *kept]
        oldest = now_us() - tokens.LONGEST_SECONDS * 1_000_000
        counted = [each for n, each in enumerate(kept) if n == 0 or kept[n - 1][1] > oldest]
        if create and (row is None or json.dumps(counted) != row.value):
            put_setting(session, _KIDS, json.dumps(counted))
        return [kid for kid, _ in counted]


def _is_valid(key: KeyRow) -> bool:
    is_expired = key.expires_us is not None and key.expires_us <= now_us()
    return key.revoked_us is None and not is_expired


def _record(row: PersonTokenRow) -> TokenRecord:
    return TokenRecord(
        row.id,
        row.person,
        row.key_id,
        list(row.scopes),
        row.created_us,
        row.expires_us,
        row.revoked_us,
    )
