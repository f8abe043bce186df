"""Three adapters become one, by every method, and answer the questions of all three again.

Methods: merging the weights, merging followed by a short training (as `"merge": "ties"` in a distillation
does), and training on all cubes together.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from benchmarks.recall.facts import FactCube
from benchmarks.recall.learn import WHO, Learnt, distilled
from benchmarks.record import Record
from memos_vllm.cube.model import ExplicitPayload, NewCube, NewMeta
from memos_vllm.parametric.adapter.folders import AdapterFolders
from memos_vllm.parametric.adapter.merge import merge
from memos_vllm.parametric.adapter.packed import Adapter
from memos_vllm.parametric.training.order import Recipe
from memos_vllm.parametric.training.study import is_right, question_messages
from memos_vllm.parametric.training.weights import Weights
from memos_vllm.system import MemorySystem
from memos_vllm.transforms.requests import Distill
from memos_vllm.writer.base import Ask

MERGED = 3
EPOCHS_AFTER_MERGE = 3
METHODS: tuple[Literal["cat", "svd", "ties", "dare_ties"], ...] = (
    "cat",
    "svd",
    "ties",
    "dare_ties",
)


def merge_weights(
    record: Record,
    system: MemorySystem,
    model: str,
    known: Sequence[FactCube],
    learnt: Sequence[Learnt],
    recipe: Recipe,
    home: Path,
) -> None:
    """Ask the merged adapter every set of questions, before and after a short training."""
    adapters = [done.adapter for done in learnt if done.adapter is not None]
    first, *others = [str(done.made) for done in learnt]
    exam = [question for cube in known for question in cube.exam]
    short = recipe.model_copy(update={"epochs": min(EPOCHS_AFTER_MERGE, recipe.epochs)})
    for method in METHODS:
        rank = sum(adapter.config.r for adapter in adapters) if method == "cat" else None
        whole = merge(adapters, method, rank or adapters[0].config.r)
        _note_kept(record, model, f"weights_alone_{method}", whole, known, home)
        request = Distill(also=others, merge=method, exam=exam, recipe=short)
        retrained = distilled(system, model, first, request)
        if retrained.adapter is not None:
            _note_kept(record, model, method, retrained.adapter, known, home)


def learn_together(
    record: Record,
    system: MemorySystem,
    model: str,
    known: Sequence[FactCube],
    recipe: Recipe,
    home: Path,
) -> None:
    """Ask the same questions of one adapter that was trained on all cubes."""
    made = system.create(
        WHO,
        [
            NewCube(meta=NewMeta(shared=True), payload=ExplicitPayload(content=cube.text))
            for cube in known
        ],
    )
    ref, *also = [cube.meta.id for cube in made]
    exam = [question for cube in known for question in cube.exam]
    done = distilled(system, model, ref, Distill(also=also, exam=exam, recipe=recipe))
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
    """Record the share of its recall that each set of facts retains."""
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
            key = f"kept_min_{method}"
            record.headline[key] = min(record.headline.get(key, kept), kept)


@torch.inference_mode()
def _asked(model: str, folder: Path, known: Sequence[FactCube]) -> list[float]:
    from peft import PeftModel

    weights = Weights(model)
    weights.model = PeftModel.from_pretrained(weights.model, str(folder)).eval()
    shares = []
    for cube in known:
        asks = [
            Ask(question_messages(None, each.question, weights.escape), 48) for each in cube.exam
        ]
        replies = weights.write(asks, lambda count: None)
        right = [is_right(reply, q.answer) for reply, q in zip(replies, cube.exam, strict=True)]
        shares.append(round(statistics.fmean(right), 4))
    return shares
