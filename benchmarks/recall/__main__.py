"""`python -m benchmarks.recall [--cubes 20] [--locomo FILE] [--merging] [--quick]`: recall of adapters.

Cubes of facts are distilled into adapters by the jobs of `memos train`, one after the other.  Questions
that are not part of the training are asked with the text in the prompt (ceiling), with neither text nor
adapter (floor), and with the adapter alone.  Forgetting is the perplexity of unrelated text over the base
model's.  The first cubes are also trained on the answers alone (`likelihood`, the baseline).  `--locomo`
adds one speaker of a conversation.

With `--merging`, three adapters are trained and become one (see `merging.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.recall.facts import FactCube, cubes
from benchmarks.recall.learn import Learnt, learn, open_system
from benchmarks.recall.merging import MERGED, learn_together, merge_weights
from benchmarks.record import Record, output_arguments
from memos_vllm.demo.model import prepare_chat_model
from memos_vllm.parametric.training.order import Question, Recipe
from memos_vllm.system import MemorySystem

MODELS = Path(tempfile.gettempdir()) / "memos-vllm-tests"
OBSERVATIONS = 24


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cubes", type=int, default=20)
    parser.add_argument("--locomo", type=Path, help="locomo10.json")
    parser.add_argument("--merging", action="store_true", help="three adapters into one")
    output_arguments(parser)
    arguments = parser.parse_args()
    recipe = Recipe(epochs=1, questions=1) if arguments.quick else Recipe()
    model = str(prepare_chat_model(MODELS))
    count = 1 if arguments.quick else arguments.cubes
    count = MERGED if arguments.merging else count
    record = Record(
        "merging" if arguments.merging else "recall",
        module="recall",
        options="--merging"
        if arguments.merging
        else f"--cubes {count}" + (" --locomo FILE" if arguments.locomo else ""),
        config={"model": Path(model).name, "recipe": recipe.model_dump(mode="json")},
    )
    with tempfile.TemporaryDirectory() as home, closing(open_system(Path(home))) as opened:
        known = cubes(count)
        learnt = _learn_each(record, opened, model, known, recipe)
        if arguments.merging:
            merge_weights(record, opened, model, known, learnt, recipe, Path(home))
            learn_together(record, opened, model, known, recipe, Path(home))
        else:
            _headline(record)
            _baseline(record, opened, model, known[:MERGED], recipe)
            if arguments.locomo:
                row, _ = learn(opened, model, _speaker(arguments.locomo), recipe)
                _note(record, row | {"kind": "locomo"})
    record.finish(quick=arguments.quick, out=arguments.out)


def _learn_each(
    record: Record, opened: MemorySystem, model: str, known: Sequence[FactCube], recipe: Recipe
) -> list[Learnt]:
    learnt = []
    for cube in known:
        row, done = learn(opened, model, cube, recipe)
        _note(record, row)
        learnt.append(done)
    return learnt


def _note(record: Record, row: dict[str, Any]) -> None:
    record.rows.append(row)
    print(json.dumps(row), flush=True)


def _baseline(
    record: Record, opened: MemorySystem, model: str, known: Sequence[FactCube], recipe: Recipe
) -> None:
    """Train the same cubes on the answers alone."""
    for cube in known:
        row, _ = learn(opened, model, cube, recipe.model_copy(update={"method": "likelihood"}))
        _note(record, row | {"kind": "likelihood"})
    recalls = [row["adapter"] for row in record.rows if row["kind"] == "likelihood"]
    record.headline["recall_likelihood"] = round(statistics.fmean(recalls), 3)


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


def _speaker(path: Path) -> FactCube:
    """Observations of the first conversation's first speaker, and questions that they answer."""
    sample = json.loads(path.read_text(encoding="utf-8"))[0]
    speaker = sample["conversation"]["speaker_a"]
    observed = [
        (text, source)
        for session in sample["observation"].values()
        for text, source in session.get(speaker, [])
        if isinstance(source, str)
    ][:OBSERVATIONS]
    sources = {source for _, source in observed}
    exam = [
        Question(question=each["question"], answer=str(each["answer"]))
        for each in sample["qa"]
        if each["category"] in (1, 4) and set(each["evidence"]) <= sources and each["evidence"]
    ]
    return FactCube("LoCoMo speaker", "\n".join(text for text, _ in observed), tuple(exam))


if __name__ == "__main__":
    main()
