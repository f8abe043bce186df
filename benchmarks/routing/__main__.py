"""`python -m benchmarks.routing [--people 24] [--quick]`: which replica answers, and what another one costs.

Two replicas with one memory behind vllm-router (`--policy consistent_hash`), on PostgreSQL and a Chroma server.
People of several tenants hold chats of four turns, four at a time:

reply     the client sends the `X-Session-ID` of the last reply, and none before it
kept      the client has kept that of an earlier chat
person    the client sends the person's id in it
nothing   the client sends none
A turn is warm when the replica of the person's turn before it answers.  Then each person goes on with two
chats, one at the warm replica and one at the other one, past the router and one after another: TTFT of each.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from benchmarks.record import Record, output_arguments
from benchmarks.routing.chats import Chat, Turn
from benchmarks.serving.arms import FLAGS, OURS_SETTINGS, Host, Ours, declare, fill
from benchmarks.serving.people import CHAT_TURNS, Person, people
from memos_vllm.config.load import load_config
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.system import MemorySystem
from tests.engine.postgres import Postgres
from tests.engine.replicas import Replicas, Router

ARMS = ("reply", "kept", "person", "nothing")
CLIENTS = 4
_TIMEOUT = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--people", type=int, default=24)
    output_arguments(parser)
    arguments = parser.parse_args()
    count = 4 if arguments.quick else arguments.people
    record = Record(
        "routing",
        options=f"--people {count}",
        config={"people": count, "turns": CHAT_TURNS, "clients": CLIENTS},
    )
    with tempfile.TemporaryDirectory() as name, bed(Path(name)) as (replicas, router):
        everyone = people()[:count]
        keys = stored(replicas, everyone)
        declare(Host(replicas.servers[0]), keys)
        arm = Ours("ours", Host(replicas.servers[0]), keys)
        chats: dict[str, list[Chat]] = {}
        for number, sends in enumerate(ARMS):
            kept = [chat.header for chat in chats["reply"]] if sends == "kept" else None
            chats[sends] = held(router.url, everyone, number, arm, sends, kept)
            record.rows.append(routed(sends, chats[sends]))
            print(record.rows[-1], flush=True)
        record.rows += moved(replicas, everyone, chats["kept"], chats["person"])
    record.headline = headline(record.rows)
    record.finish(quick=arguments.quick, out=arguments.out)


@contextlib.contextmanager
def bed(folder: Path) -> Iterator[tuple[Replicas, Router]]:
    database = Postgres()
    try:
        database.start()
        flags = (*FLAGS, "--middleware", "benchmarks.routing.named.Named")
        replicas = Replicas(folder, database.url, flags)
        for server in replicas.servers:
            server.set(**OURS_SETTINGS)
        with replicas.running(), Router(replicas).running() as router:
            yield replicas, router
    finally:
        database.close()


def stored(replicas: Replicas, everyone: Sequence[Person]) -> dict[str, str]:
    """Store all memory beside the running replicas; returns the keys by tenant."""
    overrides = {"home": str(replicas.folder / "operator"), **replicas.settings}
    overrides["embedder"] = {"model": str(demo_embedder_path())}
    system = MemorySystem(load_config(overrides=overrides)).open()
    try:
        return fill(system, everyone)
    finally:
        system.close()


def held(
    url: str,
    everyone: Sequence[Person],
    number: int,
    arm: Ours,
    sends: str,
    kept: Sequence[str | None] | None = None,
) -> list[Chat]:
    """A chat of each person, several at a time.

    Args:
        kept: session header of each person's earlier chat.
    """

    def talk(place: int) -> Chat:
        person = everyone[place]
        chat = Chat(person, number, arm, sends, kept[place] if kept is not None else None)
        for question in person.questions(number):
            with httpx.Client(timeout=_TIMEOUT) as http:  # a router may keep a connection's replica
                chat.ask(http, url, question)
        return chat

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(talk, range(len(everyone))))


def routed(sends: str, chats: Sequence[Chat]) -> dict[str, Any]:
    later = [
        (turn, turn.replica == before.replica)
        for chat in chats
        for before, turn in zip(chat.turns, chat.turns[1:], strict=False)
    ]
    firsts = {chat.turns[0].replica for chat in chats}
    return {
        "client_sends": sends,
        "turns": len(later),
        "warm_share": round(sum(warm for _, warm in later) / len(later), 4),
        "replicas": len(firsts),
        "cached_share": _cached_share([turn for turn, _ in later]),
        "ttft_p50": round(statistics.median(turn.ttft for turn, _ in later), 4),
    }


def moved(
    replicas: Replicas, everyone: Sequence[Person], one: Sequence[Chat], other: Sequence[Chat]
) -> list[dict[str, Any]]:
    """One more turn of each of two chats of each person: at the warm replica, and at the other one."""
    urls = {name: server.url for name, server in zip(("one", "two"), replicas.servers, strict=True)}
    found: dict[str, list[Turn]] = {"warm": [], "other": []}
    with httpx.Client(timeout=_TIMEOUT) as http:
        for place, person in enumerate(everyone):
            pair = [one[place], other[place]]
            kinds = ["warm", "other"] if place % 2 else ["other", "warm"]
            for chat, kind in zip(pair, kinds, strict=True):
                warm = chat.turns[-1].replica
                name = warm if kind == "warm" else next(each for each in urls if each != warm)
                found[kind].append(chat.ask(http, urls[name], person.questions(9)[0]))
    return [
        {
            "replica": kind,
            "turns": len(turns),
            "cached_share": _cached_share(turns),
            "ttft_p50": round(statistics.median(turn.ttft for turn in turns), 4),
        }
        for kind, turns in found.items()
    ]


def headline(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    by_arm = {row["client_sends"]: row for row in rows if "client_sends" in row}
    by_place = {row["replica"]: row for row in rows if "replica" in row}
    return {
        **{f"warm_share_{sends}": by_arm[sends]["warm_share"] for sends in ARMS},
        "ttft_other_over_warm": round(
            by_place["other"]["ttft_p50"] / by_place["warm"]["ttft_p50"], 3
        ),
    }


def _cached_share(turns: Sequence[Turn]) -> float:
    tokens = sum(turn.prompt_tokens for turn in turns)
    return round(sum(turn.cached_tokens for turn in turns) / tokens, 4)


if __name__ == "__main__":
    main()
