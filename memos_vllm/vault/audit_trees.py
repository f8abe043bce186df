"""Merkle trees of the audit log: the order of its records, and the state that a restart resumes from.

`seal` gives each new record the next leaf of its tenant's tree.  With each checkpoint its frontier is
stored: O(log n) hashes, whose root the checkpoint signs, so that a change of them is found.  The
next checkpoint, after a restart, too, reads the records behind it alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import TenantId
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.checkpoints import Checkpoint
from memos_vllm.governance.merkle import Frontier
from memos_vllm.vault import audit
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditTreeRow
from memos_vllm.vault.database import Database
from memos_vllm.vault.upsert import insert_absent

_SEAL_LOCK = 0x6D656D6F74
_BATCH = 10_000


@dataclasses.dataclass(frozen=True)
class TreeSize:
    sealed: int
    delivered: int


@dataclasses.dataclass
class Resumed:
    """A tree as the database has it."""

    tree: Frontier
    checkpoint: Checkpoint | None
    is_damaged: bool = False
    """The stored state is not that of its checkpoint: it was not used."""


class AuditTrees:
    def __init__(self, database: Database) -> None:
        self._database = database

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
                        sizes[row.tenant] = sealed_size(session, row.tenant)
                    row.leaf = sizes[row.tenant]
                    sizes[row.tenant] += 1
                for tenant in sorted(sizes):  # in one order, as `keep` locks the rows
                    self._row(session, tenant).sealed = sizes[tenant]

    def sizes(self) -> dict[str, TreeSize]:
        """Sizes of all tenants' trees, without reading records."""
        query = select(AuditTreeRow.tenant, AuditTreeRow.sealed, AuditTreeRow.delivered)
        with self._database.read() as session:
            return {
                tenant: TreeSize(sealed, sent) for tenant, sealed, sent in session.execute(query)
            }

    def size(self, tenant: str) -> int:
        """Records of a tenant that have a place in its tree."""
        with self._database.read() as session:
            return sealed_size(session, tenant)

    def resume(self, tenant: str, keys: AuditKeys) -> Resumed:
        """The tree of the newest stored checkpoint; an empty one where there is none."""
        with self._database.read() as session:
            row = session.get(AuditTreeRow, tenant)
        if row is None or row.checkpoint is None:
            return Resumed(Frontier(), None)
        try:
            checkpoint = Checkpoint.parse(row.checkpoint)
            tree = Frontier(checkpoint.size, map(bytes.fromhex, row.nodes.split()))
        except ValueError:
            return Resumed(Frontier(), None, is_damaged=True)
        is_whole = tree.is_whole and tree.root.hex() == checkpoint.root
        if (
            checkpoint.tenant != tenant
            or not is_whole
            or not checkpoint.is_authentic(keys.publics())
        ):
            return Resumed(Frontier(), None, is_damaged=True)
        return Resumed(tree, checkpoint)

    def extend(
        self, tenant: str, tree: Frontier, end: int, marks: Collection[int] = ()
    ) -> dict[int, str]:
        """Append the records from the end of the tree to leaf `end`, or to the first that is missing.

        Returns:
            Roots at the sizes `marks`, hex.
        """
        roots = {tree.size: tree.root.hex()} if tree.size in marks else {}
        with self._database.read() as session:
            for entry in entries(session, tenant, tree.size, end):
                if entry.leaf != tree.size:
                    break
                tree.append(audit.leaf_of(entry))
                if tree.size in marks:
                    roots[tree.size] = tree.root.hex()
        return roots

    def keep(self, states: Collection[tuple[Frontier, Checkpoint]]) -> None:
        """Store the frontiers of new checkpoints."""
        with self._database.write() as session:
            for tree, checkpoint in sorted(states, key=lambda state: state[1].tenant):
                row = self._row(session, checkpoint.tenant)
                row.checkpoint = dataclasses.asdict(checkpoint)
                row.nodes = " ".join(node.hex() for node in tree.nodes)

    def delivered(self, tenant: str, size: int) -> None:
        """Note that a checkpoint was sent outside."""
        with self._database.write() as session:
            self._row(session, tenant).delivered = size

    @staticmethod
    def _row(session: Session, tenant: str) -> AuditTreeRow:
        row = session.get(AuditTreeRow, tenant, with_for_update=True)
        if row is None:
            new = {"sealed": 0, "checkpoint": None, "nodes": "", "delivered": 0}
            insert_absent(session, AuditTreeRow, tenant=tenant, **new)
            row = session.get_one(AuditTreeRow, tenant, with_for_update=True)
        return row


def sealed_size(session: Session, tenant: str) -> int:
    """Leaves of a tenant's tree, from the index."""
    last = select(func.max(AuditEntryRow.leaf)).where(AuditEntryRow.tenant == tenant)
    found = session.scalar(last)
    return 0 if found is None else found + 1


def entries(
    session: Session, tenant: str | TenantId, start: int = 0, end: int | None = None, *where: Any
) -> Iterator[AuditEntryRow]:
    """Records by leaf, from `start` up to and without `end`, a batch at a time."""
    query = (
        select(AuditEntryRow)
        .where(AuditEntryRow.tenant == tenant, AuditEntryRow.leaf >= start, *where)
        .order_by(AuditEntryRow.leaf)
        .execution_options(yield_per=1000)
    )
    if end is not None:
        query = query.where(AuditEntryRow.leaf < end)
    for entry in session.scalars(query):
        yield entry
        session.expunge(entry)
