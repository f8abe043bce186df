"""Audit log, reading: the order of its records, signed checkpoints, and verification.

`seal` gives each new record the next leaf of its tenant's Merkle tree; a checkpoint is the signed root,
appended to a file outside the database.  Every step can be repeated after a kill.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import TenantId, now_us, to_datetime
from memos_vllm.errors import ConfigError, VaultUnavailable
from memos_vllm.governance.checkpoints import Checkpoint, CheckpointFiles
from memos_vllm.governance.merkle import Frontier, leaf_hash
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit, audit_legacy
from memos_vllm.vault.database import Database
from memos_vllm.vault.tables import AuditEntryRow, AuditPersonRow, AuditShardRow

log = logging.getLogger(__name__)
_SEAL_LOCK = 0x6D656D6F74
_BATCH = 10_000


class AuditLog:
    def __init__(
        self, database: Database, checkpoints: Path | None = None, seconds: float = 10.0
    ) -> None:
        """Initialize.

        Args:
            checkpoints: folder of the checkpoints; None: none are written.
            seconds: interval of checkpoints.
        """
        self._database, self._seconds = database, seconds
        self._files = CheckpointFiles(checkpoints) if checkpoints else None
        self._trees: dict[str, Frontier] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write checkpoints periodically, from a thread."""
        self._thread = threading.Thread(target=self._run, name="memos-audit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the last checkpoint."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._try_checkpoint()

    def read(self, principal: Principal, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Records of the principal's tenant, oldest first. Needs the role `admin`; a refusal is recorded."""
        self._admit(principal)
        self.checkpoint()
        tenant = principal.tenant
        query = (
            select(AuditEntryRow)
            .where(AuditEntryRow.tenant == tenant, AuditEntryRow.leaf >= after)
            .order_by(AuditEntryRow.leaf)
            .limit(limit)
        )
        with self._database.read() as session:
            rows = list(session.scalars(query))
            known = select(AuditPersonRow.pseudonym, AuditPersonRow.person).where(
                AuditPersonRow.tenant == tenant,
                AuditPersonRow.pseudonym.in_(
                    {name for row in rows for name in (row.person, row.owner)}
                ),
            )
            names = {row.pseudonym: row.person for row in session.execute(known)}
        return [_public(row, names) for row in rows]

    def verify(self, principal: Principal) -> list[str]:
        """What is wrong with the tenant's log; empty: it is whole, up to what no checkpoint covers yet."""
        self._admit(principal)
        self.seal()
        tenant = principal.tenant
        # Read before the records: a later checkpoint may cover more of them than were read.
        checkpoints = self._files.read(tenant) if self._files else []
        with self._database.read() as session:
            if not self._database.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            problems = self._check_names(session, tenant)
            problems += audit_legacy.problems(session, tenant)
            problems += self._check_records(session, tenant, checkpoints)
        return problems

    def seal(self) -> None:
        """Give every record without a leaf the next one of its tenant's tree."""
        unsealed = select(AuditEntryRow).where(AuditEntryRow.leaf.is_(None))
        while True:
            with self._database.read() as session:
                if session.scalar(unsealed.limit(1)) is None:
                    return
            with self._database.write() as session:
                if not self._database.is_sqlite:
                    session.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": _SEAL_LOCK})
                order = (AuditEntryRow.at_us, AuditEntryRow.shard, AuditEntryRow.number)
                rows = list(session.scalars(unsealed.order_by(*order).limit(_BATCH)))
                sizes: dict[str, int] = {}
                for row in rows:
                    if row.tenant not in sizes:
                        last = select(func.max(AuditEntryRow.leaf))
                        found = session.scalar(last.where(AuditEntryRow.tenant == row.tenant))
                        sizes[row.tenant] = 0 if found is None else found + 1
                    row.leaf = sizes[row.tenant]
                    sizes[row.tenant] += 1

    def checkpoint(self) -> None:
        """Seal, and sign the root of every tree that has grown since its last checkpoint."""
        self.seal()
        if self._files is None:
            return
        with self._lock:
            self._database.audit_keys.reload()
            query = select(AuditEntryRow.tenant, func.max(AuditEntryRow.leaf)).group_by(
                AuditEntryRow.tenant
            )
            with self._database.read() as session:
                ends = {tenant: end for tenant, end in session.execute(query) if end is not None}
                for tenant, end in ends.items():
                    tree = self._trees.setdefault(tenant, Frontier())
                    if tree.size >= end + 1:
                        continue
                    rows = session.scalars(
                        select(AuditEntryRow)
                        .where(
                            AuditEntryRow.tenant == tenant,
                            AuditEntryRow.leaf >= tree.size,
                            AuditEntryRow.leaf <= end,
                        )
                        .order_by(AuditEntryRow.leaf)
                    )
                    for row in rows:
                        tree.append(_leaf(row))
                    key = self._database.audit_keys.current
                    self._files.append(
                        Checkpoint.signed(key, tenant, tree.size, tree.root.hex(), now_us())
                    )

    # -- inside -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._try_checkpoint()

    def _try_checkpoint(self) -> None:
        try:
            self.checkpoint()
        except (VaultUnavailable, ConfigError, ProgrammingError, OperationalError) as error:
            # SQLAlchemy's: the tables are gone, as another version has changed the schema.
            log.error("no checkpoint of the audit log is written: %s", error)

    def _admit(self, principal: Principal) -> None:
        if not principal.can(Role.ADMIN):
            with self._database.write() as session:
                audit.record(session, principal, "audit.refused", "audit", {})
        principal.require(Role.ADMIN)

    def _check_names(self, session: Session, tenant: TenantId) -> list[str]:
        problems = []
        for row in session.scalars(select(AuditPersonRow).where(AuditPersonRow.tenant == tenant)):
            key = self._database.audit_keys.find(row.mac_key)
            named = audit.name_message(tenant, row.pseudonym, row.person)
            if key is None or key.mac(named) != row.mac:
                problems.append(f"the name of {row.pseudonym} was changed")
        return problems

    def _check_records(
        self, session: Session, tenant: TenantId, checkpoints: list[Checkpoint]
    ) -> list[str]:
        heads: dict[str, tuple[int, str]] = defaultdict(lambda: (0, ""))
        roots: dict[int, str] = {}
        tree, problems = Frontier(), []
        keys, wanted = self._database.audit_keys, {each.size for each in checkpoints}
        query = (
            select(AuditEntryRow)
            .where(AuditEntryRow.tenant == tenant, AuditEntryRow.leaf.is_not(None))
            .order_by(AuditEntryRow.leaf)
        )
        for row in session.scalars(query):
            count, head = heads[row.shard]
            key, seq = keys.find(row.mac_key), tree.size + 1
            if row.leaf != tree.size:
                problems.append(f"records are missing or moved in front of record {seq}")
                break
            if row.number != count + 1:
                problems.append(f"a record is missing in front of record {seq}")
            elif key is None:
                problems.append(f"record {seq} has the unknown key {row.mac_key}")
            elif key.mac(audit.message(row, head)) != row.mac:
                problems.append(f"record {seq} was changed or inserted")
            heads[row.shard] = (row.number, row.mac)
            tree.append(_leaf(row))
            if tree.size in wanted:
                roots[tree.size] = tree.root.hex()
        known = {
            row.shard: (row.count, row.head)
            for row in session.scalars(select(AuditShardRow).where(AuditShardRow.tenant == tenant))
        }
        for shard in {*known, *heads}:
            waiting = select(func.max(AuditEntryRow.number)).where(
                AuditEntryRow.shard == shard, AuditEntryRow.leaf.is_(None)
            )
            if heads[shard] != known.get(shard) and session.scalar(waiting) is None:
                problems.append(f"records are missing at the end of chain {shard}")
        for each in checkpoints:
            if not each.is_authentic(keys.publics()):
                problems.append(f"the checkpoint of {each.size} records has no valid signature")
            elif each.size > tree.size:
                problems.append(f"{each.size - tree.size} records of a checkpoint are missing")
            elif roots.get(each.size) != each.root:
                problems.append(f"the first {each.size} records are not those of their checkpoint")
        return problems


def _leaf(row: AuditEntryRow) -> bytes:
    return leaf_hash(audit.message(row, row.mac))


def _public(row: AuditEntryRow, names: dict[str, str]) -> dict[str, Any]:
    assert row.leaf is not None
    return {
        "seq": row.leaf + 1,
        "at": to_datetime(row.at_us).isoformat(),
        "key_id": row.key_id,
        "person": names.get(row.person, row.person),
        "person_pseudonym": row.person,
        "owner": names.get(row.owner, row.owner),
        "request_id": row.request_id,
        "action": row.action,
        "object": row.object,
        "detail": row.detail,
        "mac_key": row.mac_key,
        "mac": row.mac,
    }
