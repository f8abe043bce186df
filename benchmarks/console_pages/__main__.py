"""`python -m benchmarks.console_pages [--rounds 9] [--quick]`: how fast each page of the console answers.

A tenant has 10,000 cubes, of 200 people with 50 each: conversations of six turns and a profile. One of them has facts with a
history, plans of 200 requests, and is the one whose pages are read. The server answers over HTTP, one page at a time;
every round asks for all pages in another order. No engine runs beside it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from benchmarks.overhead.slices import WORDS
from benchmarks.record import Record, output_arguments
from memos_vllm.config.load import load_config
from memos_vllm.cube.model import ExplicitPayload, Item, ItemType, MemCube, NewCube, NewMeta
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.governance.principal import PersonId, Principal, Role, TenantId
from memos_vllm.learning.feedback import Feedback
from memos_vllm.scheduler.plan import MemoryPlan
from memos_vllm.system import MemorySystem
from tests.console import console_app, entry, token_in
from tests.http_server import served

GOAL_MS = 300
TENANT, ANN = "tenant", "ann"
PEOPLE, CUBES, TURNS, PLANS = 200, 50, 6, 200
QUICK_PEOPLE = 4
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="requests to each page")
    output_arguments(parser)
    arguments = parser.parse_args()
    people = QUICK_PEOPLE if arguments.quick else PEOPLE
    rounds = 2 if arguments.quick else arguments.rounds
    record = Record("console_pages", config={"people": people, "cubes": people * CUBES})
    with tempfile.TemporaryDirectory() as home:
        embedder: dict[str, Any] = {"model": str(demo_embedder_path()), "processes": 0}
        registry = str(Path(home) / "registry")
        overrides: dict[str, Any] = {
            "home": home,
            "embedder": embedder,
            "store": {"registries": {"team": registry}},
            "console": {"secure_cookies": False},
        }
        system = MemorySystem(load_config(overrides=overrides)).open()
        try:
            cube = fill(system, people)
            record.rows = measured(system, pages(cube), rounds)
        finally:
            system.close()
    slowest = max(record.rows, key=lambda row: row["median_ms"])
    record.headline = {
        "slowest_median_ms": slowest["median_ms"],
        "pages_over_goal": sum(row["median_ms"] > GOAL_MS for row in record.rows),
    }
    record.finish(quick=arguments.quick, out=arguments.out)


def pages(cube: MemCube) -> dict[str, str]:
    """Name of a page → its address below `/memory/`."""
    of_cube, item = f"person={ANN}&cube={cube.meta.id}", cube.items[0].id
    day = f"person={ANN}&day=2026-02-01"
    return {
        "overview": "",
        "people": "people",
        "people whose name begins with": "people?prefix=person-1",
        "profile": f"person?person={ANN}",
        "profile, a past day": f"person?{day}",
        "facts": f"person/facts?person={ANN}",
        "facts, a past day": f"person/facts?{day}",
        "conversations": f"person/cubes?person={ANN}",
        "cube": f"cube?{of_cube}",
        "versions of a cube": f"cube/versions?{of_cube}",
        "item with its history": f"item?{of_cube}&item={item}",
        "deletion, preview": f"cube/delete?{of_cube}",
        "search": f"person/search?person={ANN}&q={quote('Which tea do I like?')}",
        "forgetting, preview of words": f"forget?person={ANN}&subject={quote('my sister')}",
        "forgetting, preview of a session": f"forget?person={ANN}&what=session&subject=session-3",
        "restore, preview": f"restore?{day}",
        "why: plans": "plans",
        "why: a plan": f"plan?request=request-7&person={ANN}",
        "cost": "cost",
        "who may": f"access?person={ANN}",
        "erasure, preview": f"access/erase?person={ANN}",
        "keys": "keys",
        "groups": "groups",
        "policy": "policy",
        "audit, with its verification": "audit",
        "erasures": "erasures",
        "store": "store",
        "try it": f"try?person={ANN}",
    }


def fill(system: MemorySystem, people: int) -> MemCube:
    """Store the tenant's memory; returns a conversation of the one whose pages are read."""
    dice = random.Random(7)
    for number in range(1, people):
        # The index is not what these pages read: others' text need not be in it.
        system.vault.create_many(_who(f"person-{number}"), list(_cubes(dice)))
    ann = _who(ANN)
    made = system.create(ann, list(_cubes(dice)))
    feedback = Feedback(system)
    for text in (
        "I live in Paris.",
        "I live in Madrid now.",
        "My sister is called Mia.",
        "I like tea.",
    ):
        feedback.say(ann, text)
    for number in range(PLANS):
        cube = made[number % len(made)]
        used = tuple(
            entry(cube.meta.id, item.id, score=0.5, signals={"bm25": 0.4, "cosine": 0.3}, tokens=20)
            for item in cube.items
        )
        plan = MemoryPlan(
            request_id=f"request-{number}",
            person=ANN,
            entries=list(used),
            prompt_tokens=600,
            cached_tokens=400,
            injected_tokens=120,
            steps_ms={"search": 6.0, "embed": 3.0, "plan": 1.0},
        )
        system.plans.put(ann, plan.request_id, plan.model_dump(mode="json"))
    return made[1]


def measured(system: MemorySystem, addresses: dict[str, str], rounds: int) -> list[dict[str, Any]]:
    """A row for each page. Raises RuntimeError: one does not answer with 200."""
    dice = random.Random(3)
    times: dict[str, list[float]] = {name: [] for name in addresses}
    sizes: dict[str, int] = {}
    with served(console_app(system)) as url, httpx.Client(base_url=url, timeout=60) as http:
        _sign_in(http, system.keys.create(TENANT, Role.ADMIN)[1])
        for number in range(rounds + 1):
            names = list(addresses)
            dice.shuffle(names)
            for name in names:
                started = time.perf_counter()
                reply = http.get(f"/memory/{addresses[name]}".removesuffix("/"))
                seconds = time.perf_counter() - started
                if reply.status_code != 200:
                    raise RuntimeError(f"{name}: {reply.status_code} {reply.text[:200]}")
                sizes[name] = len(reply.content)
                if number:  # the first round loads templates and caches
                    times[name].append(1000 * seconds)
    return [
        {
            "page": name,
            "median_ms": round(statistics.median(found), 1),
            "worst_ms": round(max(found), 1),
            "bytes": sizes[name],
        }
        for name, found in times.items()
    ]


def _sign_in(http: httpx.Client, key: str) -> None:
    token = token_in(http.get("/memory/sign-in").text)
    reply = http.post("/memory/sign-in", data={"key": key, "form_token": token})
    assert reply.status_code == 303, reply.text


def _who(person: str) -> Principal:
    return Principal(TenantId(TENANT), Role.WRITER, "bench", PersonId(person))


def _cubes(dice: random.Random) -> Iterator[NewCube]:
    for number in range(CUBES):
        items = [
            Item(
                type=ItemType.EPISODE,
                text=f"{' '.join(dice.choices(WORDS, k=14)).capitalize()}.",
                session=f"session-{number}",
                time=_BEGIN + timedelta(days=number, minutes=turn),
            )
            for turn in range(TURNS)
        ]
        yield NewCube(meta=NewMeta(name=f"talk {number}"), payload=ExplicitPayload(content=items))


if __name__ == "__main__":
    main()
