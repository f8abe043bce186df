"""`python -m benchmarks.reading [--prefeval FILE] [--longmemeval FILE] [--quick]`: what is kept, and changes.

statements   recall by language and precision on own sentences that no training saw
changes      the judge on topics that no training saw
corrections  corrections in natural words with a fact beside each, through the whole of memory
held out     the same with other topics and words, in ten languages, of which only totals are looked at
controls     statements that look like changes and are none, held out: what they retire, mark, lose
prefeval     explicit preferences: kept; always on; in the prompt, after unrelated conversations
real turns   sentences of LongMemEval's users that are kept, and how many of them rightly (judged by hand)
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.reading import always_on, controls, corrections, sentences
from benchmarks.record import Record, output_arguments
from memos_vllm.config.load import load_config
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.plaintext.statements.reader import StatementReader
from memos_vllm.system import MemorySystem


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--prefeval", type=Path, help="PrefEval as one .json.gz")
    parser.add_argument("--longmemeval", type=Path, help="LongMemEval (oracle) as .json.gz")
    parser.add_argument("--people", type=int, default=20, help="people of the part `prefeval`")
    parser.add_argument("--embedder", default=str(demo_embedder_path()), help="`embedder.model`")
    output_arguments(parser)
    arguments = parser.parse_args()
    record = Record("reading", config={"embedder": Path(arguments.embedder).name})
    with tempfile.TemporaryDirectory() as home:
        tree: dict[str, Any] = {
            "home": home,
            "embedder": {"model": arguments.embedder, "processes": 0},
        }
        system = MemorySystem(load_config(overrides=tree)).open()
        _measure(system, arguments, record)
        system.close()
    record.finish(quick=arguments.quick, out=arguments.out)


def _measure(system: MemorySystem, arguments: argparse.Namespace, record: Record) -> None:
    reader = StatementReader(system.embedder)
    talker = corrections.Talker(system)

    def add(part: str, row: dict[str, Any]) -> dict[str, Any]:
        record.rows.append({"part": part} | row)
        print(json.dumps(record.rows[-1]), flush=True)
        return row

    changed = add(
        "corrections", corrections.measure(talker, corrections.corrections(arguments.quick))
    )
    held_out = corrections.corrections(arguments.quick, corrections.HELD_OUT)
    unseen = add("held out", corrections.measure(talker, held_out, "held-out"))
    add("controls", controls.measure(talker, controls.controls(arguments.quick)))
    record.headline["stale_unmarked_held_out"] = unseen["stale_unmarked"]
    record.headline["new_first_held_out"] = unseen["new_first"]
    record.headline["stale_unmarked"] = changed["stale_unmarked"]
    record.headline["new_first"] = changed["new_first"]
    if not arguments.quick:
        add("statements", sentences.held_out(reader))
        add("changes", sentences.changes(reader))
    if arguments.prefeval:
        preferences = always_on.read(arguments.prefeval)
        texts = [preference for _, preference, _ in always_on.explicit(preferences)]
        kept = sentences.explicit_preferences(reader, texts[:: 20 if arguments.quick else 1])
        record.headline["preferences_kept"] = kept
        people = 2 if arguments.quick else arguments.people
        record.headline["always_on"] = add(
            "prefeval", {"kept": kept} | always_on.measure(talker, preferences, people)
        )["always_on"]
    if arguments.longmemeval and not arguments.quick:
        add("real turns", sentences.real_turns(reader, arguments.longmemeval))


if __name__ == "__main__":
    main()
