"""Idempotency keys: a POST that is sent twice creates its cubes once.

The key is looked up and stored in the transaction that creates the cubes, so that of two concurrent
copies of a request only one creates them.
"""

from __future__ import annotations

import dataclasses

from sqlalchemy import delete
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import Conflict
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.salt import composed
from memos_vllm.vault.tables import IdempotencyRow

KEPT_SECONDS = 24 * 3600


@dataclasses.dataclass(frozen=True, slots=True)
class IdempotencyKey:
    key: str
    request_sha256: str


def recall(session: Session, principal: Principal, key: IdempotencyKey) -> list[str] | None:
    """Cubes that the first request with this key created; None: this is the first.

    Raises:
        Conflict: the key was used with another request.
    """
    row = session.get(IdempotencyRow, (principal.tenant, _scoped(principal, key)))
    if row is None and (legacy := _legacy(principal, key)) is not None:
        row = session.get(IdempotencyRow, (principal.tenant, legacy))
    if row is None or row.created_us < _oldest():
        return None
    if row.request_sha256 != key.request_sha256:
        raise Conflict(
            "this Idempotency-Key was used with another request; take a new key",
            param="Idempotency-Key",
        )
    return list(row.cube_ids)


def remember(
    session: Session, principal: Principal, key: IdempotencyKey, cube_ids: list[str]
) -> None:
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.created_us < _oldest()))
    session.add(
        IdempotencyRow(
            tenant=principal.tenant,
            key=_scoped(principal, key),
            request_sha256=key.request_sha256,
            cube_ids=cube_ids,
            created_us=now_us(),
        )
    )


def _oldest() -> int:
    return now_us() - KEPT_SECONDS * 1_000_000


def _scoped(principal: Principal, key: IdempotencyKey) -> str:
    """Scope a key to its API key and person: a digest of parts that are preceded by their lengths."""
    return composed("idempotency", principal.key_id, principal.person, key.key)


def _legacy(principal: Principal, key: IdempotencyKey) -> str | None:
    """The form of older versions; None: other parts would give the same text."""
    text = f"{principal.key_id}:{principal.person}:{key.key}"
    return text if text.count(":") == 2 and len(text) <= 300 else None
