"""A chat or a search with the memory of a past moment (`as_of`)."""

from __future__ import annotations

import asyncio
from datetime import datetime

from memos_vllm.cube.filters import ItemFilter
from memos_vllm.cube.ids import now_us, to_us
from memos_vllm.cube.model import Placement
from memos_vllm.errors import EmbedderUnavailable, NotFound, Unprocessable
from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.search.past import PastOperator
from memos_vllm.plaintext.search.repeats import repeats_last
from memos_vllm.plaintext.search.search import SearchResult
from memos_vllm.ports import Chat
from memos_vllm.scheduler.candidates import Candidates
from memos_vllm.steps.adapters import AdapterChooser
from memos_vllm.system import MemorySystem
from memos_vllm.vault.past_memory import PastCube
from memos_vllm.vault.records import is_listed
from memos_vllm.vault.views import AdapterCube, StableCube


def operator_of(system: MemorySystem, principal: Principal, as_of: datetime) -> PastOperator:
    """Search over the principal's memory of a moment. Raises VaultUnavailable."""
    memory = system.past.memory(principal, min(to_us(as_of), now_us()))
    return PastOperator(
        memory,
        system.operator,
        system.views,
        system.embedder,
        system.config.lifecycle.as_of_embedded,
    )


async def candidates(system: MemorySystem, chat: Chat, chooser: AdapterChooser) -> Candidates:
    """Candidates of a chat with `memory.as_of`: text of then, adapters that have not changed since.

    KV is neither loaded nor stored, unless nothing of the memory has changed since.

    Raises:
        NotFound: a named cube did not exist then, or was in no use.
        Unprocessable: the named adapter has changed since.
    """
    options, principal = chat.options, chat.principal
    assert options.as_of is not None
    past = await asyncio.to_thread(operator_of, system, principal, options.as_of)
    chat.plan.as_of = options.as_of
    if not past.memory.is_current:
        chat.options = options.model_copy(update={"kv": "none"})
    stable, named = _stable(past, options.cubes)
    adapters = await asyncio.to_thread(_adapters, system, chat, past)
    entries = await chooser.choose(chat, adapters)
    owners = past.owners(principal)
    return Candidates(owners, stable=stable, named=named, adapters=entries, past=past)


def search(
    system: MemorySystem,
    principal: Principal,
    as_of: datetime,
    question: str,
    top_k: int,
    where: ItemFilter | None = None,
) -> SearchResult:
    """The best items of a moment; by words alone where the embedder does not answer. Blocks."""
    past = operator_of(system, principal, as_of)
    owners = past.owners(principal)
    if not owners:
        return SearchResult([], [], None)
    vector, problem = None, None
    try:
        vector = asyncio.run(system.embed_question(principal, question))
    except EmbedderUnavailable as error:
        problem = error.reason
    keep = past.matching(where) if where is not None else None
    about_past = where is not None and where.is_about_time

    def best(count: int) -> SearchResult:
        return past.search(
            principal, question, vector, count, owners, about_past=about_past, keep=keep
        )

    result = repeats_last(best, question, top_k)
    return SearchResult(result.found, result.further, problem or result.degraded)


def _stable(past: PastOperator, refs: tuple[str, ...]) -> tuple[list[StableCube], int]:
    """(the named cubes and those placed `stable` then, number of the named ones)."""
    cubes = sorted(past.memory.cubes, key=lambda cube: cube.row.person, reverse=True)
    named: list[PastCube] = []
    for ref in refs:
        if ref in past.memory.adapters:
            continue
        found = next((cube for cube in cubes if ref in (cube.row.id, cube.name)), None)
        if found is None:
            raise NotFound(f"there was no cube {ref!r} here then", param="memory.cubes")
        if found not in named:
            named.append(found)
    placed = sorted(
        (
            cube
            for cube in past.memory.cubes
            if cube.placement is Placement.STABLE and cube not in named
        ),
        key=lambda c: (c.row.person, -c.priority, c.row.created_us, c.row.id),
    )
    return [_as_stable(cube) for cube in (*named, *placed)], len(named)


def _as_stable(cube: PastCube) -> StableCube:
    return StableCube(
        cube_id=cube.row.id,
        name=cube.name,
        version=cube.version.id,
        sequence=cube.version.sequence,
        person=cube.row.person,
        priority=cube.priority,
        reads=cube.row.reads,
        created_us=cube.row.created_us,
        items=tuple(item for item in cube.items if item.mark is None),
        is_listed=is_listed(cube.row),
    )


def _adapters(system: MemorySystem, chat: Chat, past: PastOperator) -> list[AdapterCube]:
    """Adapters named in the request or placed `stable` that are as they were."""
    wanted = chat.options.adapter
    if wanted:
        cube = system.views.adapter(chat.principal, wanted)
        if cube is None or cube.cube_id not in past.memory.adapters:
            raise Unprocessable(
                f"the adapter {wanted!r} is not as it was at `as_of`: leave `memory.adapter` out",
                param="memory.adapter",
            )
        return [cube]
    found = system.views.adapters(chat.principal)
    refs = set(chat.options.cubes)
    return [
        cube
        for cube in found
        if cube.cube_id in past.memory.adapters
        and (cube.placement is Placement.STABLE or refs & {cube.cube_id, cube.name})
    ]
