"""`python -m benchmarks.compact [--repetitions 5] [--steps 140] [--quick]`: compacts of memory.

Speed: one server, no other load; TTFT and decoding with a compact at 8 x, beside the same text in a warm prefix
cache and no memory at all, as ratios within a repetition.  Quality: recall and divergence by number of places, in
the process that makes compacts (`quality`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.compact.plot import plot
from benchmarks.compact.quality import rows as quality_rows
from benchmarks.compact.quality import together
from benchmarks.compact.speed import LOADED, NONE, RATIO, SIZES, Speed
from benchmarks.record import RESULTS, Record, output_arguments
from benchmarks.ttft.__main__ import server
from benchmarks.ttft.chat import Bench
from memos_vllm.demo.model import prepare_chat_model
from memos_vllm.parametric.training.weights import Weights
from tests.engine.harness import MODEL_CACHE


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--steps", type=int, default=140, help="of distillation")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    output_arguments(parser)
    arguments = parser.parse_args()
    quick = arguments.quick
    record = Record(
        "compact",
        options=f"--repetitions {arguments.repetitions} --steps {arguments.steps}",
        config={"ratio": RATIO, "repetitions": arguments.repetitions, "steps": arguments.steps},
    )
    with tempfile.TemporaryDirectory() as name:
        with server(Path(name) / "bf16").running() as running:
            speed = Speed(Bench(running), 1 if quick else arguments.repetitions)
            sizes = {"0.5k": 512} if quick else {each: SIZES[each] for each in arguments.sizes}
            speed.prepare(sizes)
            speed.run()
            for row in speed.rows():
                print(row, flush=True)
            record.rows += speed.rows()
            for each in sizes:
                record.headline[f"ttft_compact_over_prefix_warm_{each}"] = speed.ratio(each, LOADED)
                record.headline[f"ttft_none_over_prefix_warm_{each}"] = speed.ratio(each, NONE)
                record.headline[f"decode_compact_over_prefix_warm_{each}"] = speed.decode_ratio(
                    each, LOADED
                )
        model = str(prepare_chat_model(MODEL_CACHE))
        weights = Weights(model)
        for row in quality_rows(
            weights, model, 2 if quick else arguments.steps, [1] if quick else [5, 5]
        ):
            print(row, flush=True)
            record.rows.append(row)
        for row in together(weights, [1, 1] if quick else [5, 5, 5], 2.0):
            print(row, flush=True)
            record.rows.append(row)
    record.headline |= _quality(record.rows)
    target = record.finish(quick=quick, out=arguments.out)
    if target.parent == RESULTS or quick:
        target.with_suffix(".svg").write_text(plot(record.rows), encoding="utf-8")


def _quality(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Recall over that with the text, and divergence, by way and ratio."""
    found: dict[str, float] = {}
    text = [row["recall"] for row in rows if row.get("way") == "text"]
    for way in ("match", "distil", "first tokens", "summary"):
        for ratio in (2, 4, 8):
            chosen = [
                row
                for row in rows
                if row.get("way") == way and abs(row["times_shorter"] - ratio) < 0.2 * ratio
            ]
            name = f"{way.replace(' ', '_')}_{ratio}x"
            if chosen and sum(text):
                found[f"recall_over_text_{name}"] = round(
                    statistics.mean(row["recall"] for row in chosen) / statistics.mean(text), 3
                )
            kls = [row["kl"] for row in chosen if "kl" in row]
            if kls:
                found[f"kl_{name}"] = round(statistics.mean(kls), 4)
    return found


if __name__ == "__main__":
    main()
