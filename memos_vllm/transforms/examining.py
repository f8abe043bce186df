"""The job that examines an adapter of a bundle: the gate of this server, for what another trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memos_vllm.cube.ids import SHARED, CubeId
from memos_vllm.cube.model import Access, Header, Item, Kind
from memos_vllm.errors import Conflict, NotFound
from memos_vllm.parametric.adapter.folders import AdapterFolders
from memos_vllm.parametric.adapter.packed import unpack
from memos_vllm.parametric.training.order import Gate, JobFolder, Question, Recipe, Report
from memos_vllm.transforms.sources import Sources, existing
from memos_vllm.vault.bundle_rows import Installed
from memos_vllm.vault.transform_records import Transform
from memos_vllm.vault.vault import InTransaction

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

_SHOWN = {"outcome", "reasons", "recall", "perplexity_ratio", "seconds"}


def give(system: MemorySystem, job: Transform, cube: Header, folder: JobFolder) -> None:
    """Put an adapter into the folder of a job, in PEFT's format. Raises NotFound, DamagedPayload."""
    if not folder.given.exists():
        adapter = unpack(system.vault.file(job.principal, cube.id, cube.version))
        AdapterFolders(folder.path).make(folder.given.name, adapter)


def order_of(system: MemorySystem, job: Transform, folder: JobFolder) -> dict[str, Any]:
    """What the process is told, beyond the model and the limits; the adapter is put into its folder.

    The text to show for the ceiling of the recall is that of the bundle which brought the adapter.

    Raises:
        NotFound: the adapter is gone.
        Conflict: the bundle has another content of the cube by now.
        DamagedPayload
    """
    cube = system.vault.get(job.principal, job.request["cube"]).meta
    give(system, job, cube, folder)
    bundle = _bundle_of(system, job, CubeId(cube.id))
    is_head = system.vault.get(job.principal, cube.id).meta.version == cube.version
    if not is_head or job.request["digest"] not in {digest for _, digest in bundle.cubes.values()}:
        raise Conflict("the bundle was changed meanwhile: its new adapter has its own exam")
    exam = [Question.model_validate(each) for each in job.request["exam"]]
    return {
        "kind": "examine",
        "sources": {cube.id: cube.version},
        "exam": exam,
        "passages": _text_of(system, job, bundle) if exam else [],
        "gate": Gate(perplexity_ratio=system.config.store.perplexity_ratio),
    }


def end(
    system: MemorySystem, job: Transform, report: Report, in_transaction: InTransaction
) -> None:
    """Keep the verdict with the bundle. Raises Conflict: it has another content of the cube by now."""
    cube, digest = CubeId(job.request["cube"]), job.request["digest"]
    shown = report.model_dump(mode="json", include=_SHOWN, exclude_none=True)
    if report.outcome == "stopped":  # at a limit of time or memory
        shown["outcome"] = "failed"
    system.bundles.examined(job.principal, cube, digest, shown, in_transaction)
    system.settle([cube])
    system.adapters_changed()


def _bundle_of(system: MemorySystem, job: Transform, cube: CubeId) -> Installed:
    """Raises NotFound: the cube is of none any more."""
    for bundle in system.bundles.all(job.principal.tenant):
        if cube in {each for each, _ in bundle.cubes.values()}:
            return bundle
    raise NotFound("the bundle of the adapter is not installed any more")


def _text_of(system: MemorySystem, job: Transform, bundle: Installed) -> list[Item]:
    """Text of a bundle, in passages."""
    there = existing(system.vault, job.principal, [each for each, _ in bundle.cubes.values()])
    text = tuple(each for each in there if each.meta.kind is Kind.EXPLICIT)
    return Sources(text, SHARED, Access()).passages(Recipe().passage_tokens)
