"""Audit log, for auditors: proofs of single records, and exports that are verified without the database.

{"memos_audit_export": 1, "tenant", "filters", "checkpoint", "public_keys", "names"}
{record}                                       one a line; with `path` where filters leave some out
{"end": records, "sha256", "key", "signature"} digest of all lines before it, signed
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from memos_vllm.cube.ids import TenantId, canonical_json, now_us
from memos_vllm.errors import BadRequest, NotFound
from memos_vllm.governance.audit_offline import CONSISTENCY, END_DOMAIN, EXPORT, INCLUSION
from memos_vllm.governance.audit_record import FIELDS
from memos_vllm.governance.checkpoints import Checkpoint
from memos_vllm.governance.merkle import Tree
from memos_vllm.governance.principal import Principal
from memos_vllm.vault import audit
from memos_vllm.vault.audit_log import AuditLog
from memos_vllm.vault.audit_tables import AuditEntryRow, AuditPersonRow
from memos_vllm.vault.audit_trees import entries
from memos_vllm.vault.database import Database


@dataclasses.dataclass(frozen=True)
class AuditFilter:
    """Records that an export has; None: all."""

    action: str | None = None
    """`memory.read`; with an asterisk at its end the beginning of an action."""
    person: str | None = None
    """Who acted, or whose memory it was."""
    key_id: str | None = None
    since_us: int | None = None
    until_us: int | None = None

    @property
    def is_empty(self) -> bool:
        return all(value is None for value in dataclasses.astuple(self))


class AuditExport:
    def __init__(self, database: Database, log: AuditLog) -> None:
        self._database, self._log = database, log

    def inclusion(self, principal: Principal, seq: int) -> dict[str, Any]:
        """Proof that a record stands in the log, for `memos audit verify --proof`.

        Raises:
            NotFound: there is no such record.
        """
        self._record(principal, "audit.prove", {"seq": seq})
        checkpoint = self._log.newest(principal.tenant)
        if not 1 <= seq <= checkpoint.size:
            raise NotFound(f"there is no record {seq}: the log has {checkpoint.size}", param="seq")
        tree = self._tree(principal.tenant, checkpoint.size)
        with self._database.read() as session:
            entry = next(entries(session, principal.tenant, seq - 1, seq))
        path = tree.inclusion(seq - 1, checkpoint.size)
        return {
            "memos_audit_proof": INCLUSION,
            "record": _fields(entry),
            "path": [node.hex() for node in path],
            "checkpoint": dataclasses.asdict(checkpoint),
        }

    def consistency(
        self, principal: Principal, first: int, second: int | None = None
    ) -> dict[str, Any]:
        """Proof that the log of one checkpoint begins with that of an older one.

        Args:
            first: size of the older checkpoint, which must be in the folder.
            second: of the newer one; None: one of now.

        Raises:
            NotFound: there is no checkpoint of such a size.
            BadRequest: the first is not the smaller one.
        """
        self._record(principal, "audit.prove", {"first": first, "second": second})
        newest = self._log.newest(principal.tenant)
        known = {each.size: each for each in self._log.checkpoints(principal.tenant)}
        older = known.get(first)
        newer = newest if second is None else known.get(second)
        if older is None or newer is None:
            wanted = first if older is None else second
            raise NotFound(f"there is no checkpoint of {wanted} records", param="first")
        if older.size > newer.size:
            raise BadRequest("the first checkpoint has more records than the second", param="first")
        path = self._tree(principal.tenant, newer.size).consistency(older.size, newer.size)
        return {
            "memos_audit_proof": CONSISTENCY,
            "first": dataclasses.asdict(older),
            "checkpoint": dataclasses.asdict(newer),
            "path": [node.hex() for node in path],
        }

    def lines(
        self, principal: Principal, chosen: AuditFilter, *, with_names: bool = False
    ) -> Iterator[bytes]:
        """The export, line by line; it is recorded first.

        Args:
            with_names: also export the names behind pseudonyms.
        """
        self._log.admit(principal)
        if chosen.person is not None:
            name = self._pseudonym(principal.tenant, chosen.person)
            chosen = dataclasses.replace(chosen, person=name)
        filters = {
            name: value for name, value in dataclasses.asdict(chosen).items() if value is not None
        }
        self._record(principal, "audit.export", {"filters": filters, "names": with_names})
        checkpoint = self._log.newest(principal.tenant)
        keys = self._database.audit_keys
        digest = hashlib.sha256()
        header = {
            "memos_audit_export": EXPORT,
            "tenant": principal.tenant,
            "exported_us": now_us(),
            "filters": filters,
            "checkpoint": dataclasses.asdict(checkpoint),
            "public_keys": keys.publics(),
        }
        if with_names:
            header["names"] = self._names(principal.tenant)
        count = -1  # the header
        for line in self._body(principal.tenant, header, checkpoint, chosen):
            digest.update(line)
            count += 1
            yield line
        end, key = digest.hexdigest(), keys.current
        signature = key.sign(canonical_json([END_DOMAIN, count, end]))
        yield _line({"end": count, "sha256": end, "key": key.id, "signature": signature})

    # -- inside -----------------------------------------------------------------------------------

    def _body(
        self, tenant: TenantId, header: dict[str, Any], checkpoint: Checkpoint, chosen: AuditFilter
    ) -> Iterator[bytes]:
        yield _line(header)
        tree = None if chosen.is_empty else self._tree(tenant, checkpoint.size)
        with self._database.read() as session:
            for entry in entries(session, tenant, 0, checkpoint.size, *_where(chosen)):
                fields = _fields(entry)
                if tree is not None:
                    assert entry.leaf is not None
                    path = tree.inclusion(entry.leaf, checkpoint.size)
                    fields["path"] = [node.hex() for node in path]
                yield _line(fields)

    def _pseudonym(self, tenant: TenantId, person: str) -> str:
        """The pseudonym of a name; a pseudonym stands for itself. Raises NotFound."""
        query = select(AuditPersonRow.pseudonym).where(
            AuditPersonRow.tenant == tenant,
            (AuditPersonRow.person == person) | (AuditPersonRow.pseudonym == person),
        )
        with self._database.read() as session:
            name = session.scalar(query)
        if name is None:
            raise NotFound("the audit log has no such person", param="person")
        return name

    def _names(self, tenant: TenantId) -> dict[str, str]:
        query = select(AuditPersonRow.pseudonym, AuditPersonRow.person)
        with self._database.read() as session:
            rows = session.execute(query.where(AuditPersonRow.tenant == tenant))
            return {row.pseudonym: row.person for row in rows}

    def _tree(self, tenant: TenantId, size: int) -> Tree:
        with self._database.read() as session:
            return Tree([audit.leaf_of(each) for each in entries(session, tenant, 0, size)])

    def _record(self, principal: Principal, action: str, detail: dict[str, Any]) -> None:
        self._log.admit(principal)
        self._log.note(principal, action, "audit", detail)


def _where(chosen: AuditFilter) -> list[Any]:
    where: list[Any] = []
    if chosen.action is not None:
        start = chosen.action.removesuffix("*")
        is_start = start != chosen.action
        where.append(
            AuditEntryRow.action.startswith(start, autoescape=True)
            if is_start
            else AuditEntryRow.action == chosen.action
        )
    if chosen.person is not None:
        name = chosen.person
        where.append((AuditEntryRow.person == name) | (AuditEntryRow.owner == name))
    if chosen.key_id is not None:
        where.append(AuditEntryRow.key_id == chosen.key_id)
    if chosen.since_us is not None:
        where.append(AuditEntryRow.at_us >= chosen.since_us)
    if chosen.until_us is not None:
        where.append(AuditEntryRow.at_us < chosen.until_us)
    return where


def _fields(entry: AuditEntryRow) -> dict[str, Any]:
    assert entry.leaf is not None
    fields = {name: getattr(entry, name) for name in FIELDS}
    return {"seq": entry.leaf + 1, **fields, "mac": entry.mac}


def _line(value: dict[str, Any]) -> bytes:
    return canonical_json(value) + b"\n"
