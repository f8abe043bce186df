"""Publishers whose bundles a tenant installs, by their keys."""

from __future__ import annotations

import dataclasses

from sqlalchemy import select

from memos_vllm.cube.ids import now_us
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit
from memos_vllm.vault.bundle_tables import PublisherRow
from memos_vllm.vault.database import Database


@dataclasses.dataclass(frozen=True, slots=True)
class Publisher:
    fingerprint: str
    public: str
    label: str
    created_us: int


class Publishers:
    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, tenant: str) -> list[Publisher]:
        """Publishers that the tenant trusts, the oldest first."""
        query = select(PublisherRow).where(PublisherRow.tenant == tenant)
        with self._database.read() as session:
            rows = session.scalars(query.order_by(PublisherRow.created_us)).all()
        return [Publisher(row.fingerprint, row.public, row.label, row.created_us) for row in rows]

    def trust(self, principal: Principal, fingerprint: str, public: str, label: str) -> None:
        """Trust a publisher's key. Idempotent. Raises Forbidden."""
        principal.require(Role.ADMIN)
        with self._database.write() as session:
            row = session.get(PublisherRow, (principal.tenant, fingerprint))
            if row is None:
                row = PublisherRow(
                    tenant=principal.tenant, fingerprint=fingerprint, created_us=now_us()
                )
                session.add(row)
            row.public, row.label = public, label
            audit.record(session, principal, "store.trust", fingerprint, {})

    def distrust(self, principal: Principal, fingerprint: str) -> None:
        """Install nothing more of a publisher; what is installed stays. Raises NotFound, Forbidden."""
        principal.require(Role.ADMIN)
        with self._database.write() as session:
            row = session.get(PublisherRow, (principal.tenant, fingerprint))
            if row is None:
                raise NotFound(f"no publisher {fingerprint} is trusted", param="publisher")
            session.delete(row)
            audit.record(session, principal, "store.distrust", fingerprint, {})
