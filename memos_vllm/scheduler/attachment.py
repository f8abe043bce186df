"""Choose the adapters of a request: the engine attaches one, which may be a merge of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memos_vllm.cube.model import Kind
from memos_vllm.errors import Unprocessable
from memos_vllm.options import MemoryOptions
from memos_vllm.scheduler.plan import PlanEntry
from memos_vllm.vault.views import AdapterCube


def choose(
    cubes: Sequence[AdapterCube],
    options: MemoryOptions,
    problem: Callable[[AdapterCube], str | None],
    most: int = 1,
) -> tuple[list[AdapterCube], list[PlanEntry]]:
    """The adapters that the request should get, best first, and the plan entries of all of them.

    First is the one that `memory.adapter` names (then it is the only one), then those in `cubes`, in
    their order, then the placed ones: by priority, the person's own before the tenant's, oldest first.
    The plan says `used` of the first alone; `merged` says so of all of them.

    Args:
        problem: why the engine cannot serve an adapter; None: it can.
        most: adapters that can be merged into one.

    Raises:
        Unprocessable: the one that `memory.adapter` names cannot be served.
    """
    if options.adapter is False:
        return [], [_entry(cube, "the request wants no adapter") for cube in cubes]
    _check_named(cubes, options)
    chosen: list[AdapterCube] = []
    entries: list[PlanEntry] = []
    limit = 1 if options.adapter else most
    for cube in sorted(cubes, key=lambda cube: _rank(cube, options)):
        if len(chosen) == limit:
            reason = f"one adapter for a request, and {_names(chosen)} is it; train them together"
            entries.append(_entry(cube, reason))
        elif (why_not := problem(cube)) is not None:
            if options.adapter and _is(cube, options.adapter):
                raise Unprocessable(
                    f"{options.adapter!r} cannot be attached: {why_not}", param="memory.adapter"
                )
            entries.append(_entry(cube, why_not))
        else:
            entries.append(_chosen_entry(cube, chosen, options))
            chosen.append(cube)
    return chosen, entries


def _check_named(cubes: Sequence[AdapterCube], options: MemoryOptions) -> None:
    """Raises Unprocessable: `memory.adapter` names a cube of text."""
    if options.adapter and not any(_is(cube, options.adapter) for cube in cubes):
        raise Unprocessable(
            f"{options.adapter!r} is a cube of text: `memory.adapter` names a parametric one",
            param="memory.adapter",
        )


def _rank(cube: AdapterCube, options: MemoryOptions) -> tuple[bool, int, int, bool, int, str]:
    position = min((i for i, ref in enumerate(options.cubes) if _is(cube, ref)), default=999)
    is_wanted = bool(options.adapter) and _is(cube, str(options.adapter))
    order = (-cube.priority, not cube.person, cube.created_us, cube.cube_id)
    return (not is_wanted, position, *order)


def _chosen_entry(
    cube: AdapterCube, before: Sequence[AdapterCube], options: MemoryOptions
) -> PlanEntry:
    """The entry of a chosen adapter; those behind the first wait until they are merged with it."""
    if before:
        return _entry(cube, f"being merged with {_names(before[:1])}, for the next requests")
    is_named = any(_is(cube, ref) for ref in options.named)
    reason = "named in the request" if is_named else "placed at the head of every prompt"
    return _entry(cube, reason, used=True)


def learnt_together(
    entries: Sequence[PlanEntry], cubes: Sequence[AdapterCube], whole: AdapterCube
) -> None:
    """Mark the chosen adapters as used: one adapter that was trained on all of them replaces them."""
    chosen = {cube.cube_id for cube in cubes}
    for entry in entries:
        if entry.cube in chosen:
            entry.decision, entry.reason = (
                "used",
                f"learnt together with others as {_names([whole])}",
            )


def merged(entries: Sequence[PlanEntry], cubes: Sequence[AdapterCube]) -> None:
    """Mark adapters as used, once the engine attaches their merge."""
    for entry in entries:
        others = [cube for cube in cubes if cube.cube_id != entry.cube]
        if len(others) < len(cubes):
            entry.decision, entry.reason = "used", f"merged with {_names(others)}"


def _is(cube: AdapterCube, ref: str) -> bool:
    return ref in (cube.cube_id, cube.name)


def _names(cubes: Sequence[AdapterCube]) -> str:
    return ", ".join(cube.name or cube.cube_id for cube in cubes)


def _entry(cube: AdapterCube, reason: str, used: bool = False) -> PlanEntry:
    return PlanEntry(
        cube=cube.cube_id,
        version=cube.version,
        name=cube.name,
        kind=Kind.PARAMETRIC,
        form="adapter",
        placement=cube.placement,
        decision="used" if used else "rejected",
        reason=reason,
    )
