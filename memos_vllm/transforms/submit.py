"""Jobs as they are asked for: checked at once, queued, done by whoever has time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from memos_vllm.cube.ids import SHARED, PersonId
from memos_vllm.cube.model import Kind, State
from memos_vllm.errors import Conflict, MemosError, NotFound, Unprocessable
from memos_vllm.governance.permit import check_write
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.transforms.recover import find_segment
from memos_vllm.transforms.requests import Decode, Distill, Recover
from memos_vllm.transforms.sources import read_sources
from memos_vllm.vault.derived import Orphan
from memos_vllm.vault.transform_records import Transform

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

log = logging.getLogger(__name__)

DISTILL, DECODE, RECOVER = "distill", "decode", "recover"


def distill(system: MemorySystem, principal: Principal, ref: str, wish: Distill) -> Transform:
    """Text → adapter. Raises what `read_sources` raises, and Unprocessable, Conflict."""
    principal.require(Role.WRITER)
    sources = read_sources(system.vault, principal, [ref, *wish.also])
    if wish.into is not None:
        into = system.vault.get(principal, wish.into).meta
        check_write(principal, sources.person, into.access.writers)
        if into.kind is not Kind.PARAMETRIC:
            raise Unprocessable(f"{wish.into!r} is a cube of text", param="into")
        if (into.person or "") != sources.person:
            raise Unprocessable(
                "it belongs to somebody else than what it would learn", param="into"
            )
    elif wish.name is not None:
        _check_free(system, principal, wish.name, sources.person)
    most = system.served.max_rank if system.served is not None else None
    recipe = wish.recipe
    if most is not None and recipe.rank > most:
        if "rank" in recipe.model_fields_set:
            raise Unprocessable(
                f"rank {recipe.rank}: this server was started with --max-lora-rank {most}",
                param="recipe.rank",
            )
        recipe = recipe.model_copy(update={"rank": most})
    request = wish.model_dump(mode="json") | {"cube": ref, "recipe": recipe.model_dump(mode="json")}
    return _added(system, principal, DISTILL, sources.ids, request)


def decode(system: MemorySystem, principal: Principal, ref: str, wish: Decode) -> Transform:
    """Adapter → text."""
    principal.require(Role.WRITER)
    cube = system.vault.get(principal, ref).meta
    if cube.kind is not Kind.PARAMETRIC:
        raise Unprocessable(f"{ref!r} is a cube of text already")
    check_write(principal, PersonId(cube.person or SHARED), "admin")
    if wish.kv and wish.state is not State.ACTIVATED:
        raise Unprocessable(
            "KV is built of what may stand in prompts: `state` must be `activated`", param="kv"
        )
    request = wish.model_dump(mode="json") | {"cube": cube.id}
    return _added(system, principal, DECODE, [cube.id], request)


def recover(system: MemorySystem, principal: Principal, key: str, wish: Recover) -> Transform:
    """Kept KV → text. Raises what `find_segment` raises, and NotFound, Forbidden."""
    principal.require(Role.WRITER)
    cube, _ = find_segment(system, principal, key).own
    source = system.vault.get(principal, cube).meta
    check_write(principal, PersonId(source.person or SHARED), "admin")
    request = wish.model_dump(mode="json") | {"segment": key}
    return _added(system, principal, RECOVER, [source.id], request)


def again(system: MemorySystem, principal: Principal, orphan: Orphan) -> Transform | None:
    """An adapter that was deleted with one of its sources, from those that are left; None: there are
    none, or it was not made here."""
    if not orphan.sources or orphan.job is None:
        return None
    wish = Distill.model_validate(
        {key: value for key, value in orphan.job.items() if key in Distill.model_fields}
        | {"also": list(orphan.sources[1:]), "name": orphan.name, "into": None, "exam": []}
    )
    try:
        return distill(system, principal, orphan.sources[0], wish)
    except MemosError as error:
        log.warning("an adapter that went with its source is not made again: %s", error)
        return None


def _added(
    system: MemorySystem,
    principal: Principal,
    kind: str,
    sources: list[str],
    request: dict[str, Any],
) -> Transform:
    """Raises Conflict: one tenant does not make all others wait."""
    most = system.config.training.jobs_per_tenant
    if system.transforms.count_open(principal) >= most:
        raise Conflict(
            f"{most} jobs of the tenant wait or run already (training.jobs_per_tenant): wait for one of "
            "them, or cancel it"
        )
    return system.transforms.add(principal, kind, sources, request)


def _check_free(system: MemorySystem, principal: Principal, name: str, person: str) -> None:
    """Raises Conflict. Better now than after an hour of training."""
    try:
        found = system.vault.get(principal.as_person(person or None), name)
    except NotFound:
        return
    if (found.meta.person or "") == person:
        raise Conflict(f"the owner has a cube {name!r} already: choose another name, or `into` it")
