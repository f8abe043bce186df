"""Train and examine one cube with the job of `memos train`."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from benchmarks.recall.facts import FactCube
from memos_vllm.config.load import load_config
from memos_vllm.cube.ids import TenantId
from memos_vllm.cube.model import ExplicitPayload, NewCube, NewMeta
from memos_vllm.demo.embedder import minilm_path
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.parametric.adapter.packed import Adapter, unpack
from memos_vllm.parametric.training.order import Recipe, Report
from memos_vllm.system import MemorySystem
from memos_vllm.transforms.requests import Distill
from memos_vllm.transforms.runner import JobRunner
from memos_vllm.transforms.submit import distill

WHO = Principal(TenantId("bench"), Role.ADMIN, "bench")


def open_system(home: Path) -> MemorySystem:
    tree: dict[str, Any] = {"home": str(home), "embedder": {"model": str(minilm_path())}}
    return MemorySystem(load_config(overrides=tree)).open()


@dataclasses.dataclass(frozen=True)
class Learnt:
    """Result of a job; `made` is the id of the adapter's cube."""

    report: Report
    made: str | None
    adapter: Adapter | None
    seconds: float


def learn(
    system: MemorySystem, model: str, cube: FactCube, recipe: Recipe
) -> tuple[dict[str, Any], Learnt]:
    new = NewCube(meta=NewMeta(shared=True), payload=ExplicitPayload(content=cube.text))
    made = system.create(WHO, [new])[0]
    done = distilled(system, model, made.meta.id, Distill(exam=list(cube.exam), recipe=recipe))
    report = done.report
    assert report.recall is not None, report.reasons
    row = {
        "kind": "facts",
        "cube": cube.name,
        "questions": report.recall.questions,
        "ceiling": report.recall.ceiling,
        "floor": report.recall.floor,
        "adapter": report.recall.adapter,
        "passed": report.outcome == "passed",
        "reasons": report.reasons,
        "perplexity_ratio": report.perplexity_ratio,
        "prompt_tokens_saved": report.prompt_tokens_saved,
        "lessons": report.lessons,
        "steps": report.steps,
        "seconds": done.seconds,
    }
    return row, done


def distilled(system: MemorySystem, model: str, ref: str, request: Distill) -> Learnt:
    job = distill(system, WHO, ref, request)
    runner = JobRunner(system, (model, None))
    claimed = runner.claim(job.id)
    assert claimed is not None
    started = time.perf_counter()
    report = runner.do(claimed)
    seconds = round(time.perf_counter() - started, 1)
    assert report is not None
    made = system.transforms.get(WHO, job.id).made
    if made is None:
        return Learnt(report, None, None, seconds)
    version = system.vault.get(WHO, made).meta.version
    return Learnt(report, made, unpack(system.vault.file(WHO, made, version)), seconds)
