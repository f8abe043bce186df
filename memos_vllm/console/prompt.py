"""The memory of a plan as it stood in the prompt: its blocks in their order, with the texts of now.

    [system message, stable cubes] [history, with what it kept] [retrieved items, question]

A plan holds ids and numbers. Texts are looked up when the page is asked for, by what its reader may see then: what is
deleted, changed or not readable any more has none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime

from memos_vllm.console.calls import Calls
from memos_vllm.cube.model import Item
from memos_vllm.errors import Forbidden, NotFound
from memos_vllm.governance.permit import PROMPT
from memos_vllm.governance.principal import Principal
from memos_vllm.scheduler.plan import MemoryPlan, PlanEntry
from memos_vllm.system import MemorySystem

CUBES, ITEMS = 50, 20
"""Cubes of the head, and items of each, whose text is shown."""
_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One piece of memory in the prompt."""

    entry: PlanEntry
    items: Sequence[Item] | None
    """None: deleted, changed, or not readable now."""
    more: int = 0
    """Further items of the cube."""


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    parts: Sequence[Part]
    total: int
    """Pieces in the prompt; those behind `parts` are not shown."""
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    head: Block
    """Stable cubes and those that the request named, whole."""
    kept: Block
    """Items in front of earlier messages of the conversation."""
    retrieved: Block
    """Items in front of the question."""
    attached: Sequence[PlanEntry]
    """Adapters: they change the model, and are no text."""


def in_prompt(system: MemorySystem, owner: Principal, plan: MemoryPlan) -> Prompt:
    """
    Args:
        owner: the plan's person, by the key or token that looks.
    """
    texts = [entry for entry in plan.used if entry.form != "adapter"]
    head = [entry for entry in texts if entry.item is None]
    kept = [entry for entry in texts if entry.item is not None and entry.kept]
    retrieved = [entry for entry in texts if entry.item is not None and not entry.kept]
    cubes = [_cube(Calls(system, owner), entry) for entry in head[:CUBES]]
    return Prompt(
        _block(cubes, head),
        _block(_items(system, owner, kept), kept),
        _block(_items(system, owner, retrieved), retrieved),
        [entry for entry in plan.used if entry.form == "adapter"],
    )


def _block(parts: Sequence[Part], entries: Sequence[PlanEntry]) -> Block:
    return Block(parts, len(entries), sum(entry.tokens for entry in entries))


def _cube(calls: Calls, entry: PlanEntry) -> Part:
    """A whole cube in the version that was used."""
    try:
        items = calls.cube(entry.cube, entry.version, None).items
    except (NotFound, Forbidden):
        return Part(entry, None)
    return Part(entry, items[:ITEMS], max(len(items) - ITEMS, 0))


def _items(system: MemorySystem, owner: Principal, entries: Sequence[PlanEntry]) -> list[Part]:
    """Items in the order of the prompt, oldest first; those without a text now are last."""
    ids = [entry.item for entry in entries if entry.item is not None]
    found = system.views.recall(owner, ids, PROMPT)
    here = [(entry, found[entry.item].item) for entry in entries if entry.item in found]
    here.sort(key=lambda each: _order(*each))
    gone = [Part(entry, None) for entry in entries if entry.item not in found]
    return [Part(entry, [item]) for entry, item in here] + gone


def _order(entry: PlanEntry, item: Item) -> tuple[datetime, str, str]:
    """As `scheduler.scheduler` places items."""
    return (item.time or _BEGINNING, entry.cube, item.source or "")
