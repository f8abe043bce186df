"""`python -m benchmarks.serving [--starts 2] [--quick]`: multi-tenant chat under load.

Two people of each of 24 tenants chat, in an order by chance, each with a profile, 200 turns of history and
the tenant's knowledge base of 1.5k tokens. Every turn asks about a turn of the history. The engine's KV holds
two thirds of what all of them have at the head of their prompts. All arms run on the same engine flags, each
server in processes of its own:

no memory              bare vLLM, the conversation alone
pasted                 bare vLLM; the client pastes base, profile and the best 8 turns by BM25 into the
                       system message (its search is not in the times)
pasted, LMCache        the same, with LMCache's connector behind vLLM
ours                   the server holds all memory, searches it and remembers each turn
ours, kept             the same with `prompt.kept_tokens`
ours, nothing to say   the server with people who have no memory; compare `no memory`

Arms take turns in short slices of the same chats, in an order that changes; the servers that are not
measured are stopped by SIGSTOP. A ratio is taken inside one round. A round in which the machine was slow
for one of its arms is dropped (see `benchmarks.overhead.reference`).
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.overhead.reference import reference_seconds
from benchmarks.record import Record, output_arguments
from benchmarks.serving.arms import Arm, started
from benchmarks.serving.load import REPLY_TOKENS, Chat, Slice, run, wake
from benchmarks.serving.people import CHAT_TURNS, HISTORY_TURNS, TENANTS, Person, people
from benchmarks.serving.summary import headline, rows

CONCURRENCY = (1, 4, 8, 16)
BLOCKS = 1024
"""Two thirds of the tokens of all bases and profiles, of 32 tokens each."""
LEAST_CHATS = 4
"""Of a slice."""
SETTLE_SECONDS, IDLE_SHARE = 30.0, 0.1
"""Longest wait for a server's work behind its last slice; share of a core below which it is idle."""
WAKE_SECONDS = 180.0


@dataclasses.dataclass
class Load:
    """Which chats each slice holds; no chat is held twice on the same servers."""

    everyone: Sequence[Person]
    chats: int = 0

    def next(self, count: int) -> list[Chat]:
        found = [
            Chat(random.Random(f"chat {number}").choice(self.everyone), number)
            for number in range(self.chats, self.chats + count)
        ]
        self.chats += count
        return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=2, help="of all servers")
    parser.add_argument("--rounds", type=int, default=1, help="of each concurrency, in each start")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="KV blocks of each engine")
    parser.add_argument("--arms", nargs="*", help="only these; default: all")
    parser.add_argument("--concurrency", type=int, nargs="*", default=list(CONCURRENCY))
    output_arguments(parser)
    arguments = parser.parse_args()
    starts, rounds, levels = arguments.starts, arguments.rounds, arguments.concurrency
    if arguments.quick:
        starts, rounds, levels = 1, 1, [2]
    slices: list[Slice] = []
    try:
        for start in range(starts):
            for made in measured(start, rounds, levels, arguments.blocks, arguments.arms):
                slices.append(made)
                print(progress(made), flush=True)
    except KeyboardInterrupt:
        print("stopped: the record has what was measured so far", flush=True)
    record = Record("serving", rows=rows(slices, drop=not arguments.quick))
    record.headline = headline(slices, drop=not arguments.quick)
    record.config = {
        "starts": starts,
        "rounds": rounds,
        "kv_blocks": arguments.blocks,
        "block_size": 32,
        "people": len(people()),
        "tenants": TENANTS,
        "history_turns": HISTORY_TURNS,
        "chat_turns": CHAT_TURNS,
        "reply_tokens": REPLY_TOKENS,
        "errors": sorted({error for made in slices for error in made.errors})[:5],
    }
    record.finish(quick=arguments.quick, out=arguments.out)


def measured(
    start: int, rounds: int, levels: Sequence[int], blocks: int, only: Sequence[str] | None
) -> Iterator[Slice]:
    everyone = people()
    load = Load(everyone)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        started(Path(name), everyone, blocks, start, only) as chosen,
    ):
        warm_up = load.next(2)
        for arm in chosen:
            _held(Slice(arm.name, 2, start, -1), arm, warm_up)
        turn = start
        for number in range(rounds):
            for level in levels:
                chats = load.next(max(LEAST_CHATS, level))
                for arm in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
                    yield _held(Slice(arm.name, level, start, number), arm, chats)
                turn += 1


def _held(made: Slice, arm: Arm, chats: Sequence[Chat]) -> Slice:
    made.reference = reference_seconds()
    arm.host.signal(signal.SIGCONT)
    try:
        wake(arm, chats[0].person, WAKE_SECONDS)
        _settle(arm)
        return run(made, arm, chats)
    finally:
        arm.host.signal(signal.SIGSTOP)


def _settle(arm: Arm) -> None:
    """Wait until what the arm's last slice left to do, as turns to remember, is done."""
    until = time.monotonic() + SETTLE_SECONDS
    time.sleep(1)
    before = sum(arm.host.cpu_seconds())
    while time.monotonic() < until:
        time.sleep(1)
        after = sum(arm.host.cpu_seconds())
        if after - before < IDLE_SHARE:
            return
        before = after


def progress(made: Slice) -> str:
    problem = f" ({made.errors[0]})" if made.errors else ""
    ttfts = sorted(answer.ttft for answer in made.answers)
    middle = f"{ttfts[len(ttfts) // 2]:.2f} s" if ttfts else "none"
    return (
        f"start {made.start} round {made.round} concurrency {made.concurrency:2d} {made.arm:22s} "
        f"{len(made.answers)} answers in {made.seconds:.1f} s, TTFT {middle}, {len(made.errors)} errors{problem}, "
        f"API {made.api_seconds:.1f} + {made.helper_seconds:.1f} s, reference {1000 * made.reference:.0f} ms"
    )


if __name__ == "__main__":
    main()
