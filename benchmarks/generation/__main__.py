"""`python -m benchmarks.generation --dataset locomo --data FILE [--quick]`: answers with memory.

Without --base-url, a memos_vllm server starts with the demo's model (135 million parameters: its answers show
the cost of memory and the difference that it makes, not the quality of a good chat model).  With it, any
OpenAI-compatible model answers, and memory is searched and placed in this process.  A judge, another such
model, scores answers that token F1 cannot; without one, those questions are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from openai import OpenAI

from benchmarks.generation import runs
from benchmarks.generation.asking import Asker, Elsewhere, OwnServer
from benchmarks.generation.dataset import Dataset
from benchmarks.generation.judge import Judge
from benchmarks.generation.loaders import LOADERS
from benchmarks.generation.loaders.prefeval import with_inter_turns
from benchmarks.generation.measure import Answered, Outcome, measure, rows
from benchmarks.generation_tables import OURS
from benchmarks.record import RESULTS, output_arguments
from memos_vllm.demo.embedder import MINILM_WHEEL
from memos_vllm.demo.model import prepare_chat_model
from memos_vllm.errors import BadRequest
from tests.engine.harness import MODEL_CACHE, Server

QUICK_QUESTIONS = 4
REQUEST_SECONDS = 600
CONTEXT, TOP_K = 8192, 8


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if problem := _problem(options):
        parser.error(problem)
    judge = _judge(options)
    try:
        dataset = _dataset(options)
    except BadRequest as error:
        print(error, file=sys.stderr)
        return 2
    if judge is None:
        dataset = dataset.without_judge()
    chosen = _chosen(options, dataset)
    if not chosen.questions:
        print("no question is left: the others need a judge (--judge-url)", file=sys.stderr)
        return 2
    with contextlib.ExitStack() as opened:
        asker = opened.enter_context(_asker(options))
        note = opened.enter_context(_notes(options.answers))
        outcome = measure(asker, chosen, judge, note)
        run = describe(options, chosen, asker, judge, outcome)
    made = runs.record(run, rows(outcome, dataset.shares()))
    if options.add:
        runs.add_earlier(made, options.out or RESULTS / "generation.json")
    made.finish(quick=options.quick, out=options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--dataset", choices=sorted(LOADERS), required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--inter-turns", type=Path, metavar="FILE", help="PrefEval's turns about other things"
    )
    parser.add_argument("--inter-turns-count", type=int, default=10, metavar="N")
    parser.add_argument("--base-url", help="of the model that answers, with its /v1")
    parser.add_argument("--model", help="its name there")
    parser.add_argument("--api-key-env", metavar="VAR", help="variable that holds its key")
    parser.add_argument("--context", type=int, default=CONTEXT, help="of the model, in tokens")
    parser.add_argument("--judge-url", help="of the judge, with its /v1")
    parser.add_argument("--judge-model")
    parser.add_argument("--judge-api-key-env", metavar="VAR")
    parser.add_argument("--histories", type=int, metavar="N", help="the first N; default: all")
    parser.add_argument(
        "--questions", type=int, metavar="N", help="N questions, equally many of each kind"
    )
    parser.add_argument("--top-k", type=int, default=TOP_K, help="items searched for a question")
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="write each answer to this file"
    )
    parser.add_argument(
        "--add", action="store_true", help="keep the results' runs with other models and data"
    )
    output_arguments(parser)
    return parser


def _problem(options: argparse.Namespace) -> str | None:
    """Conflict between options; None: the options agree."""
    if bool(options.base_url) != bool(options.model):
        return "--base-url and --model belong together"
    if bool(options.judge_url) != bool(options.judge_model):
        return "--judge-url and --judge-model belong together"
    if options.inter_turns and options.dataset != "prefeval":
        return "--inter-turns belong to --dataset prefeval"
    for name in (options.api_key_env, options.judge_api_key_env):
        if name and name not in os.environ:
            return f"the environment has no variable {name}"
    return None


def _dataset(options: argparse.Namespace) -> Dataset:
    """Load the data set. Raises BadRequest."""
    dataset = LOADERS[options.dataset](options.data)
    if options.inter_turns:
        return with_inter_turns(dataset, options.inter_turns, options.inter_turns_count)
    return dataset


def _chosen(options: argparse.Namespace, dataset: Dataset) -> Dataset:
    if options.quick:
        return dataset.first(1).sample(QUICK_QUESTIONS)
    part = dataset.first(options.histories)
    return part.sample(options.questions) if options.questions else part


def _judge(options: argparse.Namespace) -> Judge | None:
    if not options.judge_url:
        return None
    return Judge(_client(options.judge_url, options.judge_api_key_env), options.judge_model)


@contextlib.contextmanager
def _asker(options: argparse.Namespace) -> Iterator[Asker]:
    with tempfile.TemporaryDirectory(prefix="memos-generation-") as name:
        folder = Path(name)
        if options.base_url:
            client = _client(options.base_url, options.api_key_env)
            elsewhere = Elsewhere(folder, client, options.model, options.context, options.top_k)
            with contextlib.closing(elsewhere):
                yield elsewhere
            return
        model = prepare_chat_model(MODEL_CACHE).name
        flags = ("--max-model-len", str(options.context))
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2"}
        server = Server(folder, home=folder / "home", flags=flags, environment=environment)
        with server.running() as running:
            yield OwnServer(running, model, options.context, options.top_k)


def _client(url: str, key_variable: str | None) -> OpenAI:
    key = os.environ[key_variable] if key_variable else "none"
    return OpenAI(base_url=url, api_key=key, timeout=REQUEST_SECONDS)


@contextlib.contextmanager
def _notes(path: Path | None) -> Iterator[Callable[[Answered], None]]:
    """Function that writes an answer to a file; the record itself holds no text of a data set."""
    if path is None:
        yield lambda answered: None
        return
    with path.open("w", encoding="utf-8") as file:

        def note(one: Answered) -> None:
            line = {
                "way": one.way,
                "person": one.history.person,
                "kind": one.question.kind,
                "question": one.question.text,
                "reference": one.question.answer,
                "answer": one.reply.text,
                "score": one.score,
                "judged": one.judged,
            }
            print(json.dumps(line, ensure_ascii=False), file=file, flush=True)

        yield note


def describe(
    options: argparse.Namespace,
    dataset: Dataset,
    asker: Asker,
    judge: Judge | None,
    outcome: Outcome,
) -> dict[str, Any]:
    """Description of a run, enough to repeat it."""
    letters = dataset.questions[0].scored_by == "letter"
    return {
        "options": _given(options),
        "dataset": options.dataset,
        "data_sha256": dataset.sha256[:16],
        "histories": len(dataset.histories),
        "turns": sum(len(history.turns) for history in dataset.histories),
        "questions": len(dataset.questions),
        "questions_left_out": dict(dataset.left_out),
        "score": "share of right letters" if letters else "token F1",
        "model": asker.model,
        "model_is": "elsewhere, memory placed in front" if options.base_url else OURS,
        "context": asker.context,
        "temperature": 0,
        "top_k": options.top_k,
        "embedder": f"all-MiniLM-L6-v2 from {MINILM_WHEEL}",
        "judge": judge.model if judge else None,
        "judge_without_verdict": judge.silent if judge else None,
        "answers": len(outcome.answers),
    }


def _given(options: argparse.Namespace) -> str:
    """The command line without its paths and addresses."""
    given = [f"--dataset {options.dataset} --data FILE"]
    given += [f"--histories {options.histories}"] if options.histories else []
    given += [f"--questions {options.questions}"] if options.questions else []
    if options.inter_turns:
        given += [f"--inter-turns FILE --inter-turns-count {options.inter_turns_count}"]
    given += [f"--base-url URL --model {options.model}"] if options.base_url else []
    given += [f"--judge-url URL --judge-model {options.judge_model}"] if options.judge_url else []
    given += [f"--context {options.context}"] if options.context != CONTEXT else []
    given += [f"--top-k {options.top_k}"] if options.top_k != TOP_K else []
    return " ".join([*given, *(["--quick"] if options.quick else [])])


if __name__ == "__main__":
    sys.exit(main())
