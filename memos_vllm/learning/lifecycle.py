"""MemLifecycle: merge cubes. The items of a merged cube are in another one, each once, with all sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memos_vllm.cube.lifecycle import READABLE, check_transition
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    Kind,
    MemCube,
    Provenance,
    State,
)
from memos_vllm.errors import Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.learning.optimistic import retry_conflicts
from memos_vllm.plaintext.claims.fold import fold
from memos_vllm.plaintext.claims.sameness import says_the_same

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


def merge(system: MemorySystem, principal: Principal, source: str, into: str) -> MemCube:
    """Merge a cube's items into another cube of the same owner; the first one becomes `merged`.

    A run that was killed between the two writes is repeated without harm.

    Returns:
        The cube with the items of both.
    Raises:
        NotFound, Forbidden
        Unprocessable: the two cannot be merged.
        Conflict: one belongs to a bundle, or other writers changed them in each attempt.
    """
    for ref in (source, into):
        system.bundles.check_free(principal, ref)
    return retry_conflicts(
        lambda: _merge(system, principal, source, into),
        "other writers change the cubes all the time: try again",
        attempts=5,
    )


def _merge(system: MemorySystem, principal: Principal, source: str, into: str) -> MemCube:
    old, whole = (system.vault.get(principal, ref) for ref in (source, into))
    _check(old, whole)
    if len({system.grants.audience(principal, each.meta.id) for each in (old, whole)}) > 1:
        raise Unprocessable(
            "the cubes are shared with different people: give them the same grants first",
            param="into",
        )
    origin = Provenance(origin="merge", parents=[old.meta.id], parent_versions=[old.meta.version])
    payload = ExplicitPayload(content=together(whole.items, old.items))
    made = system.update(
        principal,
        whole.meta.id,
        CubePatch(payload=payload, provenance=origin),
        if_match=whole.meta.version,
    )
    # Items that came after `old` was read are not in `made`: the cube stays active then.
    system.update(principal, old.meta.id, CubePatch(state=State.MERGED), if_match=old.meta.version)
    return made


def together(items: Sequence[Item], others: Sequence[Item]) -> list[Item]:
    """Items of both, ordered by time if all have one; duplicates are left out."""
    plain = [item for item in items if item.claim is None]
    for item in others:
        if item.claim is None and not any(_is_copy(item, each) for each in plain):
            plain.append(item)
    known = [item for item in items if item.claim is not None]
    claims = fold(known, [item for item in others if item.claim is not None]).items
    both = [item.model_copy(update={"id": None}) for item in (*plain, *claims)]
    if all(item.time is not None for item in both):
        both.sort(key=lambda item: (item.time, item.source or ""))
    return both


def _is_copy(one: Item, other: Item) -> bool:
    """Whether both have the same time, speaker and words: equal words at two times are two turns."""
    return one.time == other.time and says_the_same(one, other)


def _check(old: MemCube, whole: MemCube) -> None:
    if old.meta.id == whole.meta.id:
        raise Unprocessable("a cube cannot be merged into itself", param="into")
    for cube in (old, whole):
        if cube.meta.kind is not Kind.EXPLICIT:
            raise Unprocessable(
                f"{cube.meta.id} is `{cube.meta.kind}`: only text is merged; adapters are combined by "
                "`memos train` with all of them",
                param="into",
            )
    if (old.meta.person, old.meta.access) != (whole.meta.person, whole.meta.access):
        raise Unprocessable(
            "the cubes differ in owner or readers: merging would show one to the other's readers",
            param="into",
        )
    if whole.meta.state not in READABLE or old.meta.state not in (*READABLE, State.MERGED):
        raise Unprocessable("both have to be active", param="into")
    check_transition(old.meta.state, State.MERGED)
