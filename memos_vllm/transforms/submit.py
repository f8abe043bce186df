"""Submit transforms: check the request at once, and queue its job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memos_vllm.cube.ids import SHARED, PersonId
from memos_vllm.cube.model import Kind, State
from memos_vllm.errors import Conflict, NotFound, Unprocessable
from memos_vllm.governance.permit import Permission, check_create
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.parametric.training.order import Recipe
from memos_vllm.transforms.recover import find_segment
from memos_vllm.transforms.requests import Compact, Decode, Distill, Recover
from memos_vllm.transforms.sources import read_sources
from memos_vllm.vault.transform_records import Transform
from memos_vllm.vault.transform_rows import COMPACT, DECODE, DISTILL, RECOVER

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


def distill(system: MemorySystem, principal: Principal, ref: str, spec: Distill) -> Transform:
    """Queue text → adapter. Raises Unprocessable, Conflict and the errors of `read_sources`."""
    principal.require(Role.WRITER)
    sources = read_sources(system.vault, principal, [ref, *spec.also])
    if spec.into is not None:
        into = system.vault.get(principal, spec.into).meta
        system.grants.check(principal, into.id, Permission.WRITE)
        system.bundles.check_free(principal, into.id)
        if into.kind is not Kind.PARAMETRIC:
            raise Unprocessable(f"{spec.into!r} is a cube of text", param="into")
        if (into.person or "") != sources.person:
            raise Unprocessable("its owner is not the owner of the sources", param="into")
    elif spec.name is not None:
        _check_free(system, principal, spec.name, sources.person)
    recipe = fitted(system, spec.recipe)
    if recipe is not spec.recipe and "rank" in spec.recipe.model_fields_set:
        raise Unprocessable(
            f"rank {spec.recipe.rank}: this server was started with --max-lora-rank {recipe.rank}",
            param="recipe.rank",
        )
    request = spec.model_dump(mode="json") | {"cube": ref, "recipe": recipe.model_dump(mode="json")}
    return _added(system, principal, DISTILL, sources.ids, request)


def fitted(system: MemorySystem, recipe: Recipe) -> Recipe:
    """The recipe with a rank that the served model attaches, also where the server was started anew since."""
    most = system.served.max_rank if system.served is not None else None
    fits = most is None or recipe.rank <= most
    return recipe if fits else recipe.model_copy(update={"rank": most})


def compact(system: MemorySystem, principal: Principal, ref: str, spec: Compact) -> Transform:
    """Queue text → compact. Raises Unprocessable, Conflict and the errors of `read_sources`."""
    principal.require(Role.WRITER)
    system.policies.require(principal.tenant, "activation")
    cube = system.vault.get(principal, ref).meta
    if cube.kind is not Kind.EXPLICIT:
        raise Unprocessable(f"{ref!r} is an adapter: a compact is made of text")
    system.grants.check(principal, cube.id, Permission.WRITE)
    sources = read_sources(system.vault, principal, [ref])
    request = spec.model_dump(mode="json") | {"cube": cube.id}
    return _added(system, principal, COMPACT, sources.ids, request)


def decode(system: MemorySystem, principal: Principal, ref: str, spec: Decode) -> Transform:
    """Queue adapter → text. Raises NotFound, Forbidden, Unprocessable, Conflict."""
    principal.require(Role.WRITER)
    cube = system.vault.get(principal, ref).meta
    if cube.kind is not Kind.PARAMETRIC:
        raise Unprocessable(f"{ref!r} is a cube of text already")
    check_create(principal, PersonId(cube.person or SHARED))
    if spec.kv and spec.state is not State.ACTIVATED:
        raise Unprocessable(
            "KV is built only of cubes that may stand in prompts: `state` must be `activated`",
            param="kv",
        )
    request = spec.model_dump(mode="json") | {"cube": cube.id}
    return _added(system, principal, DECODE, [cube.id], request)


def recover(system: MemorySystem, principal: Principal, key: str, spec: Recover) -> Transform:
    """Queue stored KV → text. Raises NotFound, Forbidden, Conflict and the errors of `find_segment`."""
    principal.require(Role.WRITER)
    cube, _ = find_segment(system, principal, key).own
    source = system.vault.get(principal, cube).meta
    check_create(principal, PersonId(source.person or SHARED))
    request = spec.model_dump(mode="json") | {"segment": key}
    return _added(system, principal, RECOVER, [source.id], request)


def _added(
    system: MemorySystem,
    principal: Principal,
    kind: str,
    sources: list[str],
    request: dict[str, Any],
) -> Transform:
    """Queue a job.

    Raises:
        Conflict: the tenant has too many open jobs.
        QuotaExceeded: its training of today is used up.
    """
    system.quotas.check_training(system.database, principal.tenant)
    most = system.config.training.jobs_per_tenant
    if system.transforms.count_open(principal) >= most:
        raise Conflict(
            f"{most} jobs of the tenant wait or run already (training.jobs_per_tenant): wait for one of "
            "them, or cancel it"
        )
    return system.transforms.add(principal, kind, sources, request)


def _check_free(system: MemorySystem, principal: Principal, name: str, person: str) -> None:
    """Raises Conflict: the name is taken. Checked before an hour of training, not after."""
    try:
        found = system.vault.get(principal.as_person(person or None), name)
    except NotFound:
        return
    if (found.meta.person or "") == person:
        raise Conflict(f"the owner has a cube {name!r} already: choose another name, or `into` it")
