"""Digests of previews: an action is carried out only while it does what its preview has shown."""

from __future__ import annotations

from collections.abc import Sequence

from memos_vllm.api.claims import ChangeView
from memos_vllm.cube.ids import canonical_json, sha256


def digest_of(parts: Sequence[str]) -> str:
    return sha256(canonical_json(list(parts)))


def digest_of_changes(changes: Sequence[ChangeView]) -> str:
    """Digest of what a dry run lists: items, and whether each goes as a whole."""
    return digest_of([f"{each.item}\x00{each.text}\x00{each.whole}" for each in changes])
