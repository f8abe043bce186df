"""`python -m benchmarks.overhead [--rounds 3] [--quick]`: TTFT and time per token over bare vLLM's.

Each round starts three servers: bare vLLM, a second bare vLLM, and ours as `memos serve` starts it,
with its KV connector; each round in another order. A slice sends the same few fresh prompts to ours
and to bare vLLM, one request at a time, the first server in turn. Request by request the ratio is
taken inside the slice, so that the machine's speed is in both halves. Before each half a matrix
product of constant size is timed: a slice during which it took more than 1.25 of its median is
dropped.

`bare against itself` is the noise floor: the second bare server in the place of ours. A ratio whose
distance from 1 is less than that row's spread over starts is not a difference.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.overhead import reference
from benchmarks.overhead.slices import Send, Size, Slice, measure, rows_of, sender
from benchmarks.record import Record, output_arguments
from memos_vllm.cli.serve import CONNECTOR
from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine.harness import Server

NOISE = "bare against itself"
TOKENS = 16
STAGGER_SECONDS = 2.0
QUICK = Size(slices=1, requests=2, words=20)


@dataclasses.dataclass(frozen=True)
class Servers:
    bare: Server
    second: Server
    ours: Server
    key: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="starts of all three servers")
    parser.add_argument("--slices", type=int, default=5, help="of each case, in each round")
    parser.add_argument("--requests", type=int, default=3, help="to each server, in a slice")
    parser.add_argument("--words", type=int, default=150, help="length of a prompt")
    output_arguments(parser)
    arguments = parser.parse_args()
    size = Size(arguments.slices, arguments.requests, arguments.words)
    rounds = arguments.rounds
    if arguments.quick:
        rounds, size = 1, QUICK
    slices: list[Slice] = []
    for start in range(rounds):
        with started(start) as servers:
            slices += measure(start, cases_of(servers), size)
        print(f"round {start + 1} of {rounds} done", flush=True)
    made = record(slices, size, rounds, quick=arguments.quick)
    made.finish(quick=arguments.quick, out=arguments.out)


def cases_of(servers: Servers) -> dict[str, tuple[Send, Send]]:
    """Case → (the sender that is measured, bare vLLM's)."""

    def send(server: Server, memory: dict[str, bool] | None) -> Send:
        return sender(server, servers.key if server is servers.ours else None, TOKENS, memory)

    off, unwritten = {"enabled": False}, {"write": False}
    return {
        NOISE: (send(servers.second, off), send(servers.bare, off)),
        "memory off": (send(servers.ours, off), send(servers.bare, off)),
        "nothing to inject": (send(servers.ours, unwritten), send(servers.bare, unwritten)),
        "nothing to inject, turn remembered": (send(servers.ours, None), send(servers.bare, None)),
    }


@contextmanager
def started(start: int) -> Iterator[Servers]:
    """All three servers of a round, launched in an order that changes with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        key = _make_key(folder / "home")
        trio = [
            Server(folder, home=None),
            Server(folder, home=None),
            Server(folder, home=folder / "home"),
        ]
        order = trio[start % 3 :] + trio[: start % 3]
        with ThreadPoolExecutor(3) as pool:
            waiting = []
            for server in order:
                waiting.append(pool.submit(stack.enter_context, server.running()))
                time.sleep(STAGGER_SECONDS)
            for each in waiting:
                each.result()
        yield Servers(*trio, key=key)


def record(slices: list[Slice], size: Size, rounds: int, *, quick: bool) -> Record:
    options = f"--rounds {rounds} --slices {size.slices}"
    made = Record("overhead", options, rows=rows_of(slices, drop=not quick))
    made.config = {
        "rounds": rounds,
        **dataclasses.asdict(size),
        "reply_tokens": TOKENS,
        "kv_connector": CONNECTOR["kv_connector"],
        "slices_dropped": sum(row["dropped"] for row in made.rows),
        "slices_measured": len(slices),
        "reference_matrix": reference.SIZE,
        "reference_products": reference.REPETITIONS,
        "reference_ms_median": round(1000 * statistics.median(s.reference for s in slices), 3),
        "reference_slow_over_median": reference.SLOW,
    }
    by_case = {row["case"]: row for row in made.rows}
    made.headline = {
        "ttft_ratio_memory_off": by_case["memory off"]["ttft_ratio_median"],
        "ttft_ratio_nothing_to_inject": by_case["nothing to inject"]["ttft_ratio_median"],
        "ttft_ratio_bare_against_itself": by_case[NOISE]["ttft_ratio_median"],
        "tpot_ratio_nothing_to_inject": by_case["nothing to inject"]["tpot_ratio_median"],
    }
    return made


def _make_key(home: Path) -> str:
    system = MemorySystem(load_config(overrides={"home": str(home)})).open()
    _, key = system.keys.create("bench", Role.WRITER)
    system.close()
    return key


if __name__ == "__main__":
    main()
