"""Verification of a tenant's audit log in the database: MACs, order, and signed checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from memos_vllm.cube.ids import TenantId
from memos_vllm.governance.audit_keys import AuditKeys
from memos_vllm.governance.checkpoints import Checkpoint
from memos_vllm.governance.merkle import Frontier
from memos_vllm.vault import audit
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditPersonRow, AuditShardRow
from memos_vllm.vault.audit_trees import entries


class Verifier:
    def __init__(self, session: Session, keys: AuditKeys, tenant: TenantId) -> None:
        self._session, self._keys, self._tenant = session, keys, tenant
        self._heads: dict[str, tuple[int, str]] = {}
        self.tree = Frontier()
        self.problems: list[str] = []

    def names(self) -> None:
        """Check the names of pseudonyms."""
        query = select(AuditPersonRow).where(AuditPersonRow.tenant == self._tenant)
        for row in self._session.scalars(query):
            key = self._keys.find(row.mac_key)
            named = audit.name_message(self._tenant, row.pseudonym, row.person)
            if key is None or key.mac(named) != row.mac:
                self.problems.append(f"the name of {row.pseudonym} was changed")

    def records(self, checkpoints: Sequence[Checkpoint], start: Frontier | None = None) -> None:
        """Check the records, from the end of `start` on (None: all), and the checkpoints."""
        self.tree = Frontier(start.size, start.nodes) if start is not None else Frontier()
        wanted = {each.size for each in checkpoints}
        roots = {self.tree.size: self.tree.root.hex()}
        for row in entries(self._session, self._tenant, self.tree.size):
            if row.leaf != self.tree.size:
                place = self.tree.size + 1
                self.problems.append(f"records are missing or moved in front of record {place}")
                break
            self._check(row)
            self.tree.append(audit.leaf_of(row))
            if self.tree.size in wanted:
                roots[self.tree.size] = self.tree.root.hex()
        self._ends(is_whole=start is None)
        self._compare(checkpoints, roots, start.size if start is not None else 0)

    def _check(self, row: AuditEntryRow) -> None:
        seq = self.tree.size + 1
        count, head = self._head(row)
        key = self._keys.find(row.mac_key)
        if row.number != count + 1:
            self.problems.append(f"a record is missing in front of record {seq}")
        elif key is None:
            self.problems.append(f"record {seq} has the unknown key {row.mac_key}")
        elif key.mac(audit.message(row, head)) != row.mac:
            self.problems.append(f"record {seq} was changed or inserted")
        self._heads[row.shard] = (row.number, row.mac)

    def _head(self, row: AuditEntryRow) -> tuple[int, str]:
        """Number and MAC in front of a record in its chain."""
        known = self._heads.get(row.shard)
        if known is None and row.number > 1 and self.tree.size:
            before = self._session.get(AuditEntryRow, (row.shard, row.number - 1))
            if before is not None and before.leaf is not None and before.leaf < self.tree.size:
                known = before.number, before.mac
        return known or (0, "")

    def _ends(self, is_whole: bool) -> None:
        """Check that the chains end where their heads say."""
        query = select(AuditShardRow).where(AuditShardRow.tenant == self._tenant)
        known = {row.shard: (row.count, row.head) for row in self._session.scalars(query)}
        shards = {*known, *self._heads} if is_whole else self._heads.keys()
        for shard in shards:
            waiting = select(func.max(AuditEntryRow.number)).where(
                AuditEntryRow.shard == shard, AuditEntryRow.leaf.is_(None)
            )
            found = self._heads.get(shard, (0, ""))
            if found != known.get(shard) and self._session.scalar(waiting) is None:
                self.problems.append(f"records are missing at the end of chain {shard}")

    def _compare(
        self, checkpoints: Sequence[Checkpoint], roots: dict[int, str], start: int
    ) -> None:
        publics = self._keys.publics()
        for each in checkpoints:
            if each.tenant != self._tenant or not each.is_authentic(publics):
                self.problems.append(
                    f"the checkpoint of {each.size} records has no valid signature"
                )
            elif each.size > self.tree.size:
                missing = each.size - self.tree.size
                self.problems.append(f"{missing} records of a checkpoint are missing")
            elif each.size >= start and roots.get(each.size) != each.root:
                self.problems.append(
                    f"the first {each.size} records are not those of their checkpoint"
                )
