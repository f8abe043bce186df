"""Audit log, reading: signed checkpoints of its trees, and verification.

A checkpoint is the signed root of a tenant's Merkle tree, appended to a file outside the database and,
with `governance.audit.checkpoint_url`, sent to another machine.  Every step can be repeated after a kill.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import OperationalError, ProgrammingError

from memos_vllm import metrics
from memos_vllm.cube.ids import TenantId, now_us, to_datetime
from memos_vllm.errors import AuditUnavailable, ConfigError, NotFound, VaultUnavailable
from memos_vllm.governance.checkpoint_url import CheckpointUrl
from memos_vllm.governance.checkpoints import Checkpoint, CheckpointFiles
from memos_vllm.governance.merkle import Frontier
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.vault import audit, audit_legacy
from memos_vllm.vault.audit_reads import AuditReads
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditPersonRow
from memos_vllm.vault.audit_trees import AuditTrees
from memos_vllm.vault.audit_verify import Verifier
from memos_vllm.vault.database import Database

log = logging.getLogger(__name__)
_LONGEST_PAUSE_SECONDS = 300.0


@dataclasses.dataclass
class _Known:
    """A tenant's tree in this process."""

    tree: Frontier
    checkpoint: Checkpoint | None
    written: int
    """Size of the newest checkpoint in the file."""
    has_gap: bool = False
    """A record behind the tree is missing: no checkpoint covers what follows."""


class AuditLog:
    def __init__(
        self,
        database: Database,
        reads: AuditReads | None = None,
        checkpoints: Path | None = None,
        seconds: float = 10.0,
        records: int = 1000,
        url: CheckpointUrl | None = None,
    ) -> None:
        """Initialize.

        Args:
            reads: of prompts, moved into the log with each checkpoint; None: a log without prompts.
            checkpoints: folder of the checkpoints; None: no file is written.
            seconds: interval of checkpoints.
            records: of this process after which a checkpoint comes earlier.
            url: also takes checkpoints; None: none does.
        """
        self._database, self._seconds, self._most = database, seconds, records
        self._files = CheckpointFiles(checkpoints) if checkpoints else None
        self._url = url
        self._reads = reads
        self.trees = AuditTrees(database)
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()
        self._waiting = 0
        self._wake, self._stopped = threading.Event(), False
        self._thread: threading.Thread | None = None
        self._pause, self._send_after = seconds, 0
        database.on_audit = self._count

    @property
    def reads(self) -> AuditReads:
        assert self._reads is not None, "a log without prompts"
        return self._reads

    def start(self) -> None:
        """Record what a killed process left; write checkpoints periodically, from a thread."""
        if self._reads is not None:
            self._reads.recover()
        self._thread = threading.Thread(target=self._run, name="memos-audit", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write and send the last checkpoint."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
            if self._reads is not None:
                self._reads.recover()
                self._reads.close()
            self._try_checkpoint()
            self.deliver()

    def read(self, principal: Principal, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Records of the principal's tenant, oldest first. Needs the role `admin`; a refusal is recorded."""
        self.admit(principal)
        self.seal()
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

    def verify(
        self,
        principal: Principal,
        *,
        checkpoints: Sequence[Checkpoint] | None = None,
        from_checkpoint: bool = False,
    ) -> list[str]:
        """What is wrong with the tenant's log; empty: it is whole, up to what no checkpoint covers yet.

        Args:
            checkpoints: to compare with; None: those in the folder.
            from_checkpoint: check the records behind the newest checkpoint only.
        """
        self.admit(principal)
        self._database.audit_keys.reload()
        self.seal()
        tenant = principal.tenant
        # Read before the records: a later checkpoint may cover more of them than were read.
        if checkpoints is None:
            checkpoints = self._files.read(tenant) if self._files else []
        start = self._start(tenant, checkpoints) if from_checkpoint else None
        with self._database.read() as session:
            if not self._database.is_sqlite:
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            verifier = Verifier(session, self._database.audit_keys, tenant)
            verifier.names()
            if start is None:
                verifier.problems += audit_legacy.problems(session, tenant)
            verifier.records(checkpoints, start)
        return verifier.problems

    def seal(self) -> None:
        """Give every record without a leaf the next one of its tenant's tree."""
        self.trees.seal()

    def checkpoint(self) -> None:
        """Seal, and sign the root of every tree that has grown since its last checkpoint."""
        self.seal()
        with self._lock:
            self._waiting = 0
            self._database.audit_keys.reload()
            made = []
            for tenant, size in self.trees.sizes().items():
                known = self._known.get(tenant)
                if known is not None and size.sealed < known.tree.size:
                    self._alarm("missing", tenant, "the log has become shorter")
                    known = None
                if known is None:
                    known = self._known[tenant] = self._resumed(tenant, size.sealed)
                if (new := self._signed(tenant, known, size.sealed)) is not None:
                    made.append((known.tree, new))
            if made:
                self.trees.keep(made)
            metrics.AUDIT_CHECKPOINT_TIME.set_to_current_time()

    def newest(self, tenant: TenantId) -> Checkpoint:
        """A checkpoint of all records so far. Raises NotFound: there are none."""
        self.checkpoint()
        known = self._known.get(tenant)
        if known is None or known.checkpoint is None:
            raise NotFound("the tenant's audit log has no records")
        return known.checkpoint

    def checkpoints(self, tenant: TenantId) -> list[Checkpoint]:
        """Checkpoints in the folder, oldest first."""
        return self._files.read(tenant) if self._files else []

    def deliver(self) -> bool:
        """Send each tenant's newest checkpoint to the URL. False: some are not sent, which is logged."""
        if self._url is None:
            return True
        with self._lock:
            newest = {tenant: known.checkpoint for tenant, known in self._known.items()}
        try:
            for tenant, size in self.trees.sizes().items():
                point = newest.get(tenant)
                if point is not None and point.size > size.delivered:
                    self._url.send(point)
                    self.trees.delivered(tenant, point.size)
        except (VaultUnavailable, AuditUnavailable) as error:
            metrics.AUDIT_CHECKPOINT_FAILURES.labels("url").inc()
            log.error("a checkpoint of the audit log is not sent, it will be again: %s", error)
            return False
        return True

    def admit(self, principal: Principal) -> None:
        """Raise Forbidden for a key without the role `admin`, and record that."""
        if not principal.can(Role.ADMIN):
            self.note(principal, "audit.refused", "audit", {})
        principal.require(Role.ADMIN)

    def note(self, principal: Principal, action: str, target: str, detail: dict[str, Any]) -> None:
        """Record what no other transaction records; arguments as for `vault.audit.record`."""
        with self._database.write() as session:
            audit.record(session, principal, action, target, detail)

    def health(self) -> list[str]:
        """What is wrong with checkpoints, without reading the records: for `memos doctor`."""
        problems = []
        for tenant, size in self.trees.sizes().items():
            tail = self._files.tail(tenant) if self._files else []
            missing = max((each.size for each in tail), default=0) - size.sealed
            if missing > 0:
                problems.append(
                    f"{missing} records of tenant {tenant} that a checkpoint covers are gone"
                )
            if self._url is not None and size.delivered < size.sealed:
                waits = size.sealed - size.delivered
                problems.append(f"{waits} records of tenant {tenant} have no checkpoint at the URL")
        return problems

    # -- inside -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(self._seconds)
            self._wake.clear()
            if not self._stopped:
                if self._reads is not None:
                    self._reads.recover()
                self._try_checkpoint()
                self._try_delivery()

    def _try_checkpoint(self) -> None:
        try:
            self.checkpoint()
        except (VaultUnavailable, ConfigError, ProgrammingError, OperationalError) as error:
            # SQLAlchemy's: the tables are gone, as another version has changed the schema.
            metrics.AUDIT_CHECKPOINT_FAILURES.labels("file").inc()
            log.error("no checkpoint of the audit log is written: %s", error)

    def _try_delivery(self) -> None:
        """Deliver; after a failure wait longer each time."""
        if now_us() < self._send_after:
            return
        if self.deliver():
            self._pause = self._seconds
        else:
            self._send_after = now_us() + round(self._pause * 1_000_000)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def _count(self, records: int) -> None:
        self._waiting += records
        if self._waiting >= self._most:
            self._waiting = 0
            self._wake.set()

    def _resumed(self, tenant: str, sealed: int) -> _Known:
        """The tree of the newest checkpoint, compared with the end of the file of checkpoints."""
        keys = self._database.audit_keys
        found = self.trees.resume(tenant, keys)
        is_short = found.tree.size > sealed
        if found.is_damaged:
            self._alarm("state", tenant, "the stored state of its tree was changed")
        elif is_short:
            self._alarm("missing", tenant, "the log is shorter than its newest checkpoint")
            found = dataclasses.replace(found, tree=Frontier(), checkpoint=None)
        last = self._files.last(tenant) if self._files else None
        if last is None:
            return _Known(found.tree, found.checkpoint, 0)
        if last.tenant != tenant or not last.is_authentic(keys.publics()):
            self._alarm("forged", tenant, "its newest checkpoint has no valid signature")
        elif last.size > sealed:
            if found.checkpoint is not None or not is_short:
                self._alarm("missing", tenant, "the log is shorter than its newest checkpoint")
        elif last.size >= found.tree.size:
            roots = self.trees.extend(tenant, found.tree, last.size, {last.size})
            if roots.get(last.size) != last.root:
                self._alarm("changed", tenant, "the records are not those of the newest checkpoint")
            elif found.checkpoint is None or found.checkpoint.size < last.size:
                found.checkpoint = last
        return _Known(found.tree, found.checkpoint, last.size)

    def _signed(self, tenant: str, known: _Known, sealed: int) -> Checkpoint | None:
        """Extend a tree and sign its root; None: its newest checkpoint covers it."""
        self.trees.extend(tenant, known.tree, sealed)
        if known.tree.size < sealed and not known.has_gap:
            known.has_gap = True
            self._alarm("missing", tenant, f"record {known.tree.size + 1} is not there")
        newest = known.checkpoint
        if newest is None or newest.size != known.tree.size:
            if not known.tree.size:
                return None
            key, root = self._database.audit_keys.current, known.tree.root.hex()
            newest = Checkpoint.signed(key, tenant, known.tree.size, root, now_us())
        elif known.written == newest.size:
            return None
        if self._files is not None:
            self._files.append(newest)
        known.checkpoint, known.written = newest, newest.size
        return newest

    def _start(self, tenant: TenantId, checkpoints: Sequence[Checkpoint]) -> Frontier | None:
        """Frontier of the newest of these checkpoints; None: the database has none for it."""
        found = self.trees.resume(tenant, self._database.audit_keys)
        is_known = any(
            (each.size, each.root) == (found.tree.size, found.tree.root.hex())
            for each in checkpoints
        )
        return found.tree if found.checkpoint is not None and is_known else None

    @staticmethod
    def _alarm(kind: str, tenant: str, what: str) -> None:
        metrics.AUDIT_ALARMS.labels(kind).inc()
        log.error(
            "the audit log of tenant %s may have been tampered with, or an older database was restored: "
            "%s; run `memos audit verify --tenant %s`",
            tenant,
            what,
            tenant,
        )


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
