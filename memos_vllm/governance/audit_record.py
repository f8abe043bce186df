"""Fields of an audit record, and what its MAC and its leaf of the Merkle tree cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memos_vllm.cube.ids import canonical_json
from memos_vllm.governance.merkle import leaf_hash

FIELDS = (
    "shard",
    "number",
    "tenant",
    "at_us",
    "key_id",
    "person",
    "owner",
    "request_id",
    "action",
    "object",
    "detail",
    "mac_key",
)


def message(fields: Mapping[str, Any], previous: str) -> bytes:
    """What the MAC of a record covers.

    Args:
        previous: MAC of the record before it in its chain; empty: it is the first.
    """
    return canonical_json(["memos-audit-entry-1", previous, *(fields[name] for name in FIELDS)])


def leaf_of(fields: Mapping[str, Any]) -> bytes:
    """Leaf of a record: its hash, with its MAC."""
    return leaf_hash(message(fields, fields["mac"]))
