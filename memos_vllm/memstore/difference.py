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
        old, new = _items(before.get(name)), _items(after.get(name))
        change: Literal["added", "changed", "removed"] = "changed"
        if name not in before:
            change = "added"
        elif name not in after:
            change = "removed"
        added, removed = _shown(new - old, old), _shown(old - new, new)
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


def _items(payload: Payload | None) -> Counter[tuple[str, str]]:
    """(text, what else is said of it) of each item."""
    if not isinstance(payload, ExplicitPayload) or isinstance(payload.content, str):
        return Counter()
    return Counter((_text(item), _details(item)) for item in payload.content)


def _shown(items: Counter[tuple[str, str]], other: Counter[tuple[str, str]]) -> list[str]:
    """Texts of items; one that the other version has, too, with what else is said of it."""
    known = {text for text, _ in other}
    return [f"{text} [{details}]" if text in known else text for text, details in items.elements()]


def _text(item: Item) -> str:
    return f"{item.speaker}: {item.text}" if item.speaker else item.text


def _details(item: Item) -> str:
    """Every field but the text, the speaker, and the id that the vault gives."""
    fields = item.model_dump(
        mode="json", exclude={"id", "text", "speaker"}, exclude_defaults=True, exclude_none=True
    )
    claim = fields.pop("claim", {})
    said = [f"{name}: {value}" for name, value in {"type": item.type, **fields, **claim}.items()]
    return ", ".join(said)
