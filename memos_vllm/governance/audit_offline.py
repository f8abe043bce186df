"""Verification of exported audit logs and proofs, by an auditor: with public keys, without the database.

What an export says of itself (its keys, its checkpoint) is believed only as far as a key that the auditor
has from elsewhere signed it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memos_vllm.cube.ids import canonical_json
from memos_vllm.errors import BadRequest
from memos_vllm.governance.audit_keys import AuditKeys, is_signed, key_id
from memos_vllm.governance.audit_record import FIELDS, leaf_of, message
from memos_vllm.governance.checkpoints import Checkpoint
from memos_vllm.governance.merkle import Frontier, is_consistent, is_included

EXPORT, INCLUSION, CONSISTENCY = 1, "inclusion", "consistency"
END_DOMAIN = "memos-audit-export-end-1"
_RECORD = {"seq", "mac", *FIELDS}
_MOST_NODES = 64
_PUBLIC = re.compile(r"(?<![0-9a-fA-F])[0-9a-fA-F]{64}(?![0-9a-fA-F])")


def public_keys(text: str) -> dict[str, str]:
    """Public keys by id, from the output of `memos audit key`. Raises BadRequest: there are none."""
    found = [each.lower() for each in _PUBLIC.findall(text)]
    if not found:
        raise BadRequest("a public key has 64 hex digits: `memos audit key` prints it")
    return {key_id(bytes.fromhex(each)): each for each in found}


def check_proof(proof: Any, publics: Mapping[str, str]) -> list[str]:
    """What is wrong with a proof; empty: it proves what it says."""
    try:
        kind = proof["memos_audit_proof"]
        newer = Checkpoint.parse(proof["checkpoint"])
        path = _nodes(proof["path"])
        if not newer.is_authentic(publics):
            return ["the checkpoint is not signed by a known key"]
        if kind == INCLUSION:
            return _check_inclusion(proof["record"], path, newer)
        if kind == CONSISTENCY:
            older = Checkpoint.parse(proof["first"])
            return _check_consistency(older, newer, path, publics)
    except (KeyError, TypeError, ValueError) as error:
        return [f"it is no proof of this program: {error}"]
    return [f"an unknown kind of proof: {kind!r}"]


def check_export(
    lines: Iterable[bytes],
    publics: Mapping[str, str],
    *,
    keys: AuditKeys | None = None,
    checkpoints: Sequence[Checkpoint] = (),
) -> list[str]:
    """What is wrong with an export; empty: it is whole.

    Args:
        lines: of the file.
        publics: keys that the auditor trusts.
        keys: secrets of the log, with which MACs are checked, too; None: the auditor has none.
        checkpoints: from outside, to compare a whole log with.
    """
    reader = _ExportReader(publics, keys, checkpoints)
    try:
        for line in lines:
            reader.take(line)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reader.problems.append(f"line {reader.count + 2} cannot be read: {error}")
    return reader.end()


class _ExportReader:
    def __init__(
        self,
        publics: Mapping[str, str],
        keys: AuditKeys | None,
        checkpoints: Sequence[Checkpoint],
    ) -> None:
        self.problems: list[str] = []
        self.count = 0
        self._publics, self._keys, self._outside = publics, keys, checkpoints
        self._digest = hashlib.sha256()
        self._checkpoint: Checkpoint | None = None
        self._is_whole, self._has_end = True, False
        self._tree = Frontier()
        self._roots: dict[int, str] = {}
        self._wanted = {each.size for each in checkpoints}
        self._heads: dict[str, tuple[int, str]] = {}

    def take(self, line: bytes) -> None:
        fields = json.loads(line)
        if self._has_end:
            raise ValueError("there are lines behind the end")
        if self._checkpoint is None:
            self._begin(fields)
        elif "end" in fields:
            self._finish(fields)
            return
        else:
            self._record(fields)
        self._digest.update(line if line.endswith(b"\n") else line + b"\n")

    def end(self) -> list[str]:
        if self._checkpoint is None or not self._has_end:
            self.problems.append("the file has no end: it was cut")
        elif self._is_whole:
            self._compare([self._checkpoint, *self._outside])
        return self.problems

    def _begin(self, fields: Mapping[str, Any]) -> None:
        if fields["memos_audit_export"] != EXPORT:
            raise ValueError("an unknown version")
        self._checkpoint = Checkpoint.parse(fields["checkpoint"])
        self._wanted.add(self._checkpoint.size)
        self._is_whole = not fields["filters"]
        if fields["tenant"] != self._checkpoint.tenant:
            self.problems.append("the checkpoint is another tenant's")
        if not self._checkpoint.is_authentic(self._publics):
            self.problems.append("the checkpoint is not signed by a known key")

    def _record(self, fields: dict[str, Any]) -> None:
        assert self._checkpoint is not None
        path = fields.pop("path", None)
        if set(fields) != _RECORD:
            raise ValueError("not a record: other fields")
        self.count += 1
        seq = fields["seq"]
        if fields["tenant"] != self._checkpoint.tenant:
            self.problems.append(f"record {seq} is another tenant's")
        if self._is_whole:
            if seq != self.count:
                self.problems.append(f"records are missing or moved in front of record {seq}")
            self._tree.append(leaf_of(fields))
            if self._tree.size in self._wanted:
                self._roots[self._tree.size] = self._tree.root.hex()
            self._check_mac(fields)
        else:
            self.problems += _check_inclusion(fields, _nodes(path), self._checkpoint)

    def _check_mac(self, fields: Mapping[str, Any]) -> None:
        if self._keys is None:
            return
        count, head = self._heads.get(fields["shard"], (0, ""))
        key = self._keys.find(fields["mac_key"])
        if fields["number"] != count + 1:
            self.problems.append(f"a record is missing in front of record {fields['seq']}")
        elif key is None or key.mac(message(fields, head)) != fields["mac"]:
            self.problems.append(f"record {fields['seq']} was changed or inserted")
        self._heads[fields["shard"]] = (fields["number"], fields["mac"])

    def _finish(self, fields: Mapping[str, Any]) -> None:
        self._has_end = True
        signed = canonical_json([END_DOMAIN, self.count, self._digest.hexdigest()])
        if not is_signed(self._publics, fields["key"], signed, fields["signature"]):
            self.problems.append(
                "the export is not as it was signed: lines were changed or removed"
            )

    def _compare(self, checkpoints: Iterable[Checkpoint]) -> None:
        for each in checkpoints:
            if not each.is_authentic(self._publics):
                self.problems.append(
                    f"the checkpoint of {each.size} records has no valid signature"
                )
            elif each.size > self._tree.size:
                self.problems.append(
                    f"{each.size - self._tree.size} records of a checkpoint are missing"
                )
            elif self._roots.get(each.size) != each.root:
                self.problems.append(
                    f"the first {each.size} records are not those of their checkpoint"
                )


def _check_inclusion(
    record: Mapping[str, Any], path: list[bytes], checkpoint: Checkpoint
) -> list[str]:
    if set(record) != _RECORD or type(record["seq"]) is not int:
        return ["not a record: other fields"]
    if record["tenant"] != checkpoint.tenant:
        return ["the record and the checkpoint are of different tenants"]
    root, index = bytes.fromhex(checkpoint.root), record["seq"] - 1
    if is_included(leaf_of(record), index, checkpoint.size, path, root):
        return []
    return [f"record {record['seq']} is not in the log of the checkpoint"]


def _check_consistency(
    older: Checkpoint, newer: Checkpoint, path: list[bytes], publics: Mapping[str, str]
) -> list[str]:
    if not older.is_authentic(publics):
        return ["the first checkpoint is not signed by a known key"]
    if older.tenant != newer.tenant:
        return ["the checkpoints are of different tenants"]
    roots = bytes.fromhex(older.root), bytes.fromhex(newer.root)
    if is_consistent(older.size, roots[0], newer.size, roots[1], path):
        return []
    return [f"the log of {newer.size} records does not begin with that of {older.size}"]


def _nodes(path: Any) -> list[bytes]:
    if not isinstance(path, list) or len(path) > _MOST_NODES:
        raise ValueError("a path is a list of hashes")
    nodes = [bytes.fromhex(each) for each in path]
    if any(len(node) != 32 for node in nodes):
        raise ValueError("a hash has 32 bytes")
    return nodes
