"""Warm start of training from the merged weights of several adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memos_vllm.cube.model import Kind, MemCube
from memos_vllm.errors import Unprocessable
from memos_vllm.parametric.adapter.folders import AdapterFolders
from memos_vllm.parametric.adapter.merge import merge
from memos_vllm.parametric.adapter.packed import unpack
from memos_vllm.parametric.training.order import JobFolder
from memos_vllm.transforms.requests import Distill
from memos_vllm.vault.transform_records import Transform

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


def merged_start(
    system: MemorySystem, job: Transform, spec: Distill, folder: JobFolder
) -> list[MemCube]:
    """Write the merged weights of the requested adapters as the start of training.

    Returns:
        Those adapters; none without `merge`.
    Raises:
        NotFound, DamagedPayload
        Unprocessable: there are fewer than two.
    """
    if spec.merge is None:
        return []
    vault = system.vault
    cubes = [vault.get(job.principal, ref) for ref in (job.request["cube"], *spec.also)]
    cubes = [cube for cube in cubes if cube.meta.kind is Kind.PARAMETRIC]
    if len(cubes) < 2:
        raise Unprocessable("`merge` needs two adapters at least", param="merge")
    if not folder.start.exists():
        adapters = [
            unpack(vault.file(job.principal, cube.meta.id, cube.meta.version)) for cube in cubes
        ]
        most = system.served.max_rank if system.served is not None else None
        rank = sum(a.config.r for a in adapters) if spec.merge == "cat" else spec.recipe.rank
        whole = merge(adapters, spec.merge, min(rank, most or rank))
        AdapterFolders(folder.path).make(folder.start.name, whole)
    return cubes
