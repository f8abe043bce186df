"""What a version of a bundle would change, item by item."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from memos_vllm.cube.model import ExplicitPayload, Item, Payload
from memos_vllm.memstore.model import BundledCube


@dataclasses.dataclass(frozen=True, slots=True)
class CubeDifference:
    cube: str
    """Its name in the bundle."""
    change: Literal["added", "changed", "removed"]
    kind: str
    added: Sequence[str] = ()
    """Texts, or what its header says of it."""
    removed: Sequence[str] = ()


def difference(before: Mapping[str, Payload], after: Mapping[str, Payload]) -> list[CubeDifference]:
    """Differences of cubes by name; those that are equal are left out."""
    found = []
    for name in sorted({*before, *after}):
        old, new = _texts(before.get(name)), _texts(after.get(name))
        change: Literal["added", "changed", "removed"] = "changed"
        if name not in before:
            change = "added"
        elif name not in after:
            change = "removed"
        added, removed = list((new - old).elements()), list((old - new).elements())
        payload = after.get(name) or before[name]
        if change != "changed" or added or removed or not isinstance(payload, ExplicitPayload):
            found.append(CubeDifference(name, change, payload.type, added, removed))
    return found


def header_difference(
    before: Sequence[BundledCube], after: Sequence[BundledCube]
) -> list[CubeDifference]:
    """What changes of cubes that are in both besides their content: their place in prompts, and their tags."""
    old = {cube.name: _header(cube) for cube in before}
    return [
        CubeDifference(cube.name, "changed", cube.kind, sorted(new - was), sorted(was - new))
        for cube in after
        if (was := old.get(cube.name)) is not None and (new := _header(cube)) != was
    ]


def _header(cube: BundledCube) -> set[str]:
    tags = {f"tag: {tag}" for tag in cube.tags}
    return {f"placement: {cube.placement}", f"priority: {cube.priority}", *tags}


def _texts(payload: Payload | None) -> Counter[str]:
    if not isinstance(payload, ExplicitPayload) or isinstance(payload.content, str):
        return Counter()
    return Counter(_shown(item) for item in payload.content)


def _shown(item: Item) -> str:
    return f"{item.speaker}: {item.text}" if item.speaker else item.text
