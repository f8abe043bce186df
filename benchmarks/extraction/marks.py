"""`python -m benchmarks.extraction.marks MODEL [--quick]`: what a model keeps, and its junk.

MODEL is a folder or name that vLLM loads. It sits three sheets, with both prompts of the reader: the exam;
`held_back.json`, which was not looked at while prompts were written, but while the checks were; and
`unseen.json`, written before and looked at after both. The same pairs are judged for changes.  Rules read
the same sentences beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import Record, output_arguments
from memos_vllm.cube.ids import to_datetime
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.plaintext.reader import exam
from memos_vllm.plaintext.reader.by_rules import read_claims
from memos_vllm.plaintext.reader.exam import Form, Marks
from memos_vllm.writer.base import Ask

SHEETS = {
    "exam": exam.SHEET,
    "held back": Path(__file__).with_name("held_back.json"),
    "unseen": Path(__file__).with_name("unseen.json"),
}
FORMS: tuple[Form, ...] = ("alone", "continued")
_SAID_AT_US = 1_750_000_000_000_000


class OfflineWriter:
    """Implements `writer.base.Writer` by vLLM's offline engine."""

    def __init__(self, model: str) -> None:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_PLUGINS", "")
        from vllm import LLM

        self._engine = LLM(
            model, max_model_len=2048, enforce_eager=True, block_size=32, max_num_seqs=64
        )
        self.seconds = 0.0

    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        from vllm import SamplingParams

        from memos_vllm.engine.chat.writer import structure

        params = [
            SamplingParams(
                max_tokens=a.max_tokens, temperature=0, structured_outputs=structure(a.schema)
            )
            for a in asks
        ]
        started = time.monotonic()
        outputs = self._engine.chat([list(a.messages) for a in asks], params, use_tqdm=False)
        self.seconds += time.monotonic() - started
        return [output.outputs[0].text for output in outputs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    output_arguments(parser)
    arguments = parser.parse_args()
    record = Record("extraction_marks", config={"model": Path(arguments.model).name})
    writer = OfflineWriter(arguments.model)
    sheets = {"exam": exam.SHEET} if arguments.quick else SHEETS
    for name, path in sheets.items():
        record.rows += measure(name, exam.sheet(path), writer)
    record.config["seconds"] = round(writer.seconds, 1)
    for row in record.rows:
        if row["sheet"] == "unseen" and "facts" in row:
            key = row["reader"].replace(" ", "_")
            record.headline[f"unseen_{key}_facts_kept"] = round(row["facts_kept"] / row["facts"], 3)
            record.headline[f"unseen_{key}_junk"] = round(row["junk"] / max(1, row["items"]), 3)
    record.finish(quick=arguments.quick, out=arguments.out)


def measure(name: str, sheet: dict[str, Any], writer: OfflineWriter) -> Iterator[dict[str, Any]]:
    questions = sheet["questions"]
    yield {"sheet": name, "reader": "rules"} | dataclasses.asdict(by_rules(questions))
    for form in FORMS:
        marks, _ = exam.sit(writer, str, form, questions=questions, at_once=len(questions))
        yield {"sheet": name, "reader": f"model {form}"} | dataclasses.asdict(marks)
    right, asked = exam.sit_judge(writer, str, sheet["pairs"])
    yield {"sheet": name, "reader": "model judge", "changes_right": right, "changes": asked}


def by_rules(questions: Sequence[dict[str, Any]]) -> Marks:
    """Marks of the rules for the same sentences."""
    marks = Marks(of=len(questions))
    for question in questions:
        turn = Item(
            type=ItemType.EPISODE,
            text=question["text"],
            speaker=exam.PERSON,
            time=to_datetime(_SAID_AT_US),
            source="exam",
        )
        exam.count(marks, question, read_claims([turn], exam.PERSON))
    return marks


if __name__ == "__main__":
    main()
