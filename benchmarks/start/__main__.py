"""`python -m benchmarks.start [--repetitions 3] [--quick]`: a start, and the first chat behind it.

bare       vLLM alone, until `GET /health` says yes
warm       with memory, until `GET /ready` says yes; then a chat of four turns, in which memory is searched
restarted  the same server, stopped and started again; the chat goes on
cold       with memory and without `serve.warm_up`, until `GET /health`; another chat

Each start is a process of its own, in turn; a ratio is within one repetition.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.record import Record, output_arguments
from benchmarks.routing.chats import Chat
from benchmarks.serving.arms import FLAGS, OURS_SETTINGS, Host, Ours, declare, fill, shared_memory
from benchmarks.serving.people import CHAT_TURNS, Person, people
from memos_vllm.config.load import load_config
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.system import MemorySystem
from tests.engine.harness import Server

PEOPLE = 4
_TIMEOUT = 600.0
_POLL_SECONDS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3)
    output_arguments(parser)
    arguments = parser.parse_args()
    repetitions = 1 if arguments.quick else arguments.repetitions
    record = Record(
        "start",
        options=f"--repetitions {repetitions}",
        config={"repetitions": repetitions, "people": PEOPLE, "turns": CHAT_TURNS},
    )
    with tempfile.TemporaryDirectory() as name, shared_memory() as memory:
        folder, everyone = Path(name), people()[:PEOPLE]
        keys = stored(folder / "home", everyone)
        for repetition in range(repetitions):
            for row in measured(folder, memory, everyone, keys, repetition):
                print(row, flush=True)
                record.rows.append(row)
    record.headline = headline(record.rows, repetitions)
    record.finish(quick=arguments.quick, out=arguments.out)


def stored(home: Path, everyone: Sequence[Person]) -> dict[str, str]:
    """Store all memory; returns the keys by tenant."""
    embedder = {"model": str(demo_embedder_path())}
    system = MemorySystem(load_config(overrides={"home": str(home), "embedder": embedder})).open()
    try:
        return fill(system, everyone)
    finally:
        system.close()


def measured(
    folder: Path, memory: str, everyone: Sequence[Person], keys: dict[str, str], repetition: int
) -> list[dict[str, Any]]:
    rows = [
        {"start": "bare", "seconds": started(Server(folder, home=None, flags=FLAGS), "/health")}
    ]
    warm = with_memory(folder, memory, warm_up=True)
    arm, person = Ours("ours", Host(warm), keys), everyone[repetition % len(everyone)]
    chat = Chat(person, 10 * repetition, arm, "nothing")
    questions = person.questions(10 * repetition)
    following = person.questions(10 * repetition + 1)[0]
    with httpx.Client(timeout=_TIMEOUT) as http:
        for name, asked in (("warm", questions), ("restarted", [following])):
            seconds = started(warm, "/ready", stop=False)
            try:
                if name == "warm" and repetition == 0:
                    declare(Host(warm), keys)
                turns = [chat.ask(http, warm.url, question) for question in asked]
            finally:
                warm.kill()
            rows.append({"start": name, "seconds": seconds, **told(turns)})
        cold = with_memory(folder, memory, warm_up=False)
        other = everyone[(repetition + 1) % len(everyone)]
        seconds = started(cold, "/health", stop=False)
        chat = Chat(other, 10 * repetition + 2, arm, "nothing")
        try:
            questions = other.questions(10 * repetition + 2)
            turns = [chat.ask(http, cold.url, question) for question in questions]
        finally:
            cold.kill()
        rows.append({"start": "cold", "seconds": seconds, **told(turns)})
    return [{"repetition": repetition, **row} for row in rows]


def with_memory(folder: Path, memory: str, *, warm_up: bool) -> Server:
    settings = {
        **OURS_SETTINGS,
        "MEMOS__KV__RAM_PATH": memory,
        "MEMOS__SERVE__WARM_UP": str(warm_up).lower(),
    }
    return Server(folder, home=folder / "home", flags=FLAGS, environment=settings)


def started(server: Server, path: str, *, stop: bool = True) -> float:
    """Start a server; returns the seconds until a path of it answers with 200."""
    began = time.perf_counter()
    try:
        server.start()
        while httpx.get(f"{server.url}{path}", timeout=_TIMEOUT).status_code != 200:
            time.sleep(_POLL_SECONDS)
        return round(time.perf_counter() - began, 3)
    finally:
        if stop:
            server.kill()


def told(turns: Sequence[Any]) -> dict[str, Any]:
    """TTFT in seconds and tokens of the turns of a chat."""
    return {
        "ttft": [round(turn.ttft, 4) for turn in turns],
        "prompt_tokens": [turn.prompt_tokens for turn in turns],
        "cached_tokens": [turn.cached_tokens for turn in turns],
    }


def headline(rows: Sequence[Mapping[str, Any]], repetitions: int) -> dict[str, float]:
    added, first_warm, first_cold, restarted = [], [], [], []
    for repetition in range(repetitions):
        own = {row["start"]: row for row in rows if row["repetition"] == repetition}
        added.append(own["warm"]["seconds"] - own["bare"]["seconds"])
        for name, ratios in (("warm", first_warm), ("cold", first_cold)):
            first, *later = own[name]["ttft"]
            ratios.append(first / statistics.median(later))
        restarted.append(own["restarted"]["ttft"][0] / own["warm"]["ttft"][-1])
    medians = {
        "seconds_added_to_the_start": added,
        "first_turn_over_later_ones_warm": first_warm,
        "first_turn_over_later_ones_cold": first_cold,
        "turn_after_a_restart_over_the_one_before": restarted,
    }
    return {name: round(statistics.median(values), 3) for name, values in medians.items()}


if __name__ == "__main__":
    main()
