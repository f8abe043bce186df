"""`python -m benchmarks.recall [--cubes 20] [--locomo FILE] [--quick]`: is a cube learnt?

Cubes of facts are distilled into adapters by the very jobs that `memos train` makes, one after the
other.  Each is asked questions that were not taught: with the text in the prompt (the ceiling), with
nothing (the floor), with the adapter and nothing in the prompt.  Forgetting is the perplexity of
unrelated text over the base model's.  The first cubes are also trained on the answers alone
(`likelihood`, the baseline).  Then three adapters become one, by each method of merging their weights
(as they are, and after a short training), and by learning their cubes together; each is asked its
questions again.  With `--locomo`, one
speaker of a conversation is learnt, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.recall.facts import FactCube, cubes
from benchmarks.record import Record, output_arguments
from memos_vllm.adapters.folders import AdapterFolders
from memos_vllm.adapters.merge import merge
from memos_vllm.adapters.packed import Adapter, unpack
from memos_vllm.config import load_config
from memos_vllm.cube.ids import TenantId
from memos_vllm.cube.model import ExplicitPayload, NewCube, NewMeta
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.demo.model import prepare_chat_model
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.reader.writing import Ask
from memos_vllm.system import MemorySystem
from memos_vllm.training.order import Question, Recipe, Report
from memos_vllm.training.study import is_right, told
from memos_vllm.training.weights import Weights
from memos_vllm.transforms.run import Workshop
from memos_vllm.transforms.submit import distill
from memos_vllm.transforms.wishes import Distill

WHO = Principal(TenantId("bench"), Role.ADMIN, "bench")
MERGED = 3
MENDING_EPOCHS = 2
METHODS: tuple[Literal["cat", "svd", "ties", "dare_ties"], ...] = (
    "cat",
    "svd",
    "ties",
    "dare_ties",
)
MODELS = Path(tempfile.gettempdir()) / "memos-vllm-tests"
OBSERVATIONS = 24


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cubes", type=int, default=20)
    parser.add_argument("--locomo", type=Path, help="locomo10.json")
    output_arguments(parser)
    arguments = parser.parse_args()
    count = 1 if arguments.quick else arguments.cubes
    recipe = Recipe(epochs=1, questions=1) if arguments.quick else Recipe()
    model = str(prepare_chat_model(MODELS))
    record = Record(
        "recall",
        options=f"--cubes {count}" + (" --locomo FILE" if arguments.locomo else ""),
        config={"model": Path(model).name, "recipe": recipe.model_dump(mode="json")},
    )
    with tempfile.TemporaryDirectory() as home:
        system = _system(Path(home))
        learnt = []
        known = cubes(count)
        for cube in known:
            row, done = _learn(system, model, cube, recipe)
            record.rows.append(row)
            learnt.append(done)
            print(json.dumps(row), flush=True)
        _headline(record)
        baseline = recipe.model_copy(update={"method": "likelihood"})
        for cube in known[:MERGED]:
            row, _ = _learn(system, model, cube, baseline)
            record.rows.append(row | {"kind": "likelihood"})
            record.headline["recall_likelihood"] = round(
                statistics.fmean(r["adapter"] for r in record.rows if r["kind"] == "likelihood"), 3
            )
            print(json.dumps(record.rows[-1]), flush=True)
        if count >= MERGED and all(done.adapter for done in learnt[:MERGED]):
            _merge(record, system, model, known[:MERGED], learnt[:MERGED], recipe, Path(home))
            _together(record, system, model, known[:MERGED], recipe, Path(home))
        if arguments.locomo:
            speaker = _speaker(arguments.locomo)
            row, _ = _learn(system, model, speaker, recipe)
            record.rows.append(row | {"kind": "locomo"})
            print(json.dumps(row), flush=True)
        system.close()
    record.finish(quick=arguments.quick, out=arguments.out)


def _system(home: Path) -> MemorySystem:
    tree: dict[str, Any] = {"home": str(home), "embedder": {"model": str(demo_embedder_path())}}
    return MemorySystem(load_config(overrides=tree)).open()


@dataclasses.dataclass(frozen=True)
class Learnt:
    """What came of a job."""

    report: Report
    made: str | None
    adapter: Adapter | None
    seconds: float


def _learn(
    system: MemorySystem, model: str, cube: FactCube, recipe: Recipe
) -> tuple[dict[str, Any], Learnt]:
    new = NewCube(meta=NewMeta(shared=True), payload=ExplicitPayload(content=cube.text))
    made = system.create(WHO, [new])[0]
    done = _distilled(system, model, made.meta.id, Distill(exam=list(cube.exam), recipe=recipe))
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


def _distilled(system: MemorySystem, model: str, ref: str, wish: Distill) -> Learnt:
    job = distill(system, WHO, ref, wish)
    workshop = Workshop(system, (model, None))
    claimed = workshop.claim(job.id)
    assert claimed is not None
    started = time.perf_counter()
    report = workshop.do(claimed)
    seconds = round(time.perf_counter() - started, 1)
    assert report is not None
    made = system.transforms.get(WHO, job.id).made
    if made is None:
        return Learnt(report, None, None, seconds)
    version = system.vault.get(WHO, made).meta.version
    return Learnt(report, made, unpack(system.vault.file(WHO, made, version)), seconds)


def _headline(record: Record) -> None:
    rows = record.rows
    ceiling, floor, adapter = (
        statistics.fmean(row[way] for row in rows) for way in ("ceiling", "floor", "adapter")
    )
    record.headline |= {
        "recall_ceiling": round(ceiling, 3),
        "recall_floor": round(floor, 3),
        "recall_adapter": round(adapter, 3),
        "recall_over_ceiling": round(adapter / ceiling, 3),
        "passed": sum(row["passed"] for row in rows) / len(rows),
        "forgetting_ppl_ratio": round(
            statistics.median(row["perplexity_ratio"] for row in rows), 4
        ),
        "forgetting_ppl_ratio_max": max(row["perplexity_ratio"] for row in rows),
        "prompt_tokens_saved": statistics.median(row["prompt_tokens_saved"] for row in rows),
        "seconds_to_train": statistics.median(row["seconds"] for row in rows),
    }


def _merge(
    record: Record,
    system: MemorySystem,
    model: str,
    known: Sequence[FactCube],
    learnt: Sequence[Learnt],
    recipe: Recipe,
    home: Path,
) -> None:
    """Each set of facts asked again of all three adapters as one; then after a short training."""
    adapters = [done.adapter for done in learnt if done.adapter is not None]
    first, *others = [str(done.made) for done in learnt]
    exam = [question for cube in known for question in cube.exam]
    short = recipe.model_copy(update={"epochs": min(MENDING_EPOCHS, recipe.epochs)})
    for method in METHODS:
        rank = sum(adapter.config.r for adapter in adapters) if method == "cat" else None
        whole = merge(adapters, method, rank or adapters[0].config.r)
        _note_kept(record, model, method, whole, known, home)
        wish = Distill(also=others, merge=method, exam=exam, recipe=short)
        mended = _distilled(system, model, first, wish)
        if mended.adapter is not None:
            _note_kept(record, model, f"{method}, mended", mended.adapter, known, home)
    for key, names in (
        ("merged_recall_kept_min_unmended", METHODS),
        ("merged_recall_kept_min", [f"{method}, mended" for method in METHODS]),
    ):
        kept = [record.headline.get(f"merged_recall_kept_min_{name}") for name in names]
        record.headline[key] = min(share for share in kept if share is not None)


def _together(
    record: Record,
    system: MemorySystem,
    model: str,
    known: Sequence[FactCube],
    recipe: Recipe,
    home: Path,
) -> None:
    """The same questions asked of one adapter that learnt all of the cubes."""
    made = system.create(
        WHO,
        [
            NewCube(meta=NewMeta(shared=True), payload=ExplicitPayload(content=cube.text))
            for cube in known
        ],
    )
    ref, *also = [cube.meta.id for cube in made]
    exam = [question for cube in known for question in cube.exam]
    done = _distilled(system, model, ref, Distill(also=also, exam=exam, recipe=recipe))
    if done.adapter is not None:
        _note_kept(record, model, "together", done.adapter, known, home)


def _note_kept(
    record: Record,
    model: str,
    method: str,
    whole: Adapter,
    known: Sequence[FactCube],
    home: Path,
) -> None:
    """How much of its own recall each set of facts keeps."""
    folders = AdapterFolders(home / "merged")
    folders.make(method, whole)
    for number, right in enumerate(_asked(model, folders.path(method), known)):
        own = record.rows[number]["adapter"]
        kept = round(right / own, 3) if own else None
        record.rows.append(
            {"kind": "merged", "method": method, "cube": known[number].name, "own": own}
            | {"merged": right, "kept": kept, "rank": whole.config.r}
        )
        print(json.dumps(record.rows[-1]), flush=True)
        if kept is not None:
            key = f"merged_recall_kept_min_{method}"
            record.headline[key] = min(record.headline.get(key, kept), kept)


@torch.inference_mode()
def _asked(model: str, folder: Path, known: Sequence[FactCube]) -> list[float]:
    from peft import PeftModel

    weights = Weights(model)
    weights.model = PeftModel.from_pretrained(weights.model, str(folder)).eval()
    shares = []
    for cube in known:
        asks = [Ask(told(None, each.question, weights.escape), 48) for each in cube.exam]
        replies = weights.write(asks, lambda count: None)
        right = [is_right(reply, q.answer) for reply, q in zip(replies, cube.exam, strict=True)]
        shares.append(round(statistics.fmean(right), 4))
    return shares


def _speaker(path: Path) -> FactCube:
    """What was observed of the first conversation's first speaker, and questions about just that."""
    sample = json.loads(path.read_text(encoding="utf-8"))[0]
    speaker = sample["conversation"]["speaker_a"]
    told_of = [
        (text, source)
        for session in sample["observation"].values()
        for text, source in session.get(speaker, [])
        if isinstance(source, str)
    ][:OBSERVATIONS]
    sources = {source for _, source in told_of}
    exam = [
        Question(question=each["question"], answer=str(each["answer"]))
        for each in sample["qa"]
        if each["category"] in (1, 4) and set(each["evidence"]) <= sources and each["evidence"]
    ]
    return FactCube("LoCoMo speaker", "\n".join(text for text, _ in told_of), tuple(exam))


if __name__ == "__main__":
    main()
