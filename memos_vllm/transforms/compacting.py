"""The job that makes a compact of a cube's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memos_vllm.errors import Conflict
from memos_vllm.parametric.training.order import Compacting, JobFolder, Recipe, Report
from memos_vllm.transforms.recover import KeptKV
from memos_vllm.transforms.requests import Compact
from memos_vllm.transforms.sources import Sources
from memos_vllm.vault.transform_records import Transform

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_RATIOS = {"match": 2.0, "distil": 8.0}
_MOST_KL = {"match": 0.2, "distil": 0.5}
MODULES = {"compact": "memos_vllm.compacts.process"}
"""Processes of their own, by the kind of the order."""


def order_of(sources: Sources, spec: Compact) -> dict[str, Any]:
    """What the process is told, beyond the model and the limits."""
    cube, recipe = sources.cubes[0], Recipe()
    return {
        "kind": "compact",
        "passages": sources.passages(recipe.passage_tokens),
        "recipe": recipe,
        "exam": spec.exam,
        "gate": spec.gate,
        "sources": {cube.meta.id: cube.meta.version},
        "compacting": Compacting(
            name=cube.meta.name,
            items=cube.items,
            method=spec.method,
            ratio=spec.ratio or _RATIOS[spec.method],
            places=spec.places,
            steps=spec.steps,
            learning_rate=spec.learning_rate,
            most_kl=spec.max_kl or _MOST_KL[spec.method],
        ),
    }


def keep(
    system: MemorySystem,
    job: Transform,
    sources: Sources,
    kept: KeptKV,
    folder: JobFolder,
    report: Report,
) -> None:
    """Store a compact that passed its gate, unless the cube has changed or the job was cancelled meanwhile.

    Raises:
        Conflict: the cube is another one now: its compact would hold what it does not say any more.
        Unprocessable, SegmentsUnavailable: of `KeptKV.keep_compact`.
    """
    if leaked := sources.leaks(system.views, report.said):
        report.outcome = "refused"
        report.reasons.append(
            f"leak: it says {len(leaked)} runs of words from memory that not all of its readers may read, and "
            "that its source does not contain; it is not stored"
        )
        return
    cube = sources.cubes[0]
    now = system.vault.get(job.principal, cube.meta.id)
    if folder.order().sources != {now.meta.id: now.meta.version}:  # of a run before, too
        raise Conflict("the cube was changed meanwhile: make its compact again")
    kept.keep_compact(job.principal, cube, folder.compact, report)
