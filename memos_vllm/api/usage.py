"""Stored KV of a cube, as much of it as serves the caller."""

from __future__ import annotations

import dataclasses

from memos_vllm.activation.compacts import Compact
from memos_vllm.activation.names import scope_folder
from memos_vllm.activation.quality import Quality
from memos_vllm.cube.model import KVUsage
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.system import MemorySystem


@dataclasses.dataclass(frozen=True, slots=True)
class CubeKV:
    usage: KVUsage
    qualities: list[Quality]
    """What its KV from other contexts costs, the best first."""
    segments: list[str]
    """Keys of its segments."""
    compacts: list[Compact]


def cube_kv(system: MemorySystem, caller: Principal, cube: str) -> CubeKV:
    """The KV stored of a cube: of the caller's person and tenant; all of it for an admin."""
    scopes = system.scopes
    is_admin = caller.can(Role.ADMIN)
    visible = None if is_admin else [scopes.person(caller), scopes.tenant(caller)]
    sizes = system.segments.sizes(cube, visible)
    qualities = system.segments.qualities(cube, sizes)
    usage = KVUsage(
        chains=len(sizes),
        bytes=sum(sizes.values()),
        pinned=system.segments.has_pin(cube) or cube in system.adapter_pins,
        near_kl=round(qualities[0].kl, 4) if qualities else None,
        near_refused=sum(q.kl > system.config.kv.near_max_kl for q in qualities),
    )
    folders = None if visible is None else [scope_folder(scope) for scope in visible]
    compacts = system.segments.compacts.of_cube(cube, folders)
    return CubeKV(usage, qualities, list(dict.fromkeys(name.key for name in sizes)), compacts)
