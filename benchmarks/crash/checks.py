"""What a server has after a kill, against what it acknowledged before."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx

from benchmarks.crash.ledger import Fact, Fate, Ledger
from benchmarks.crash.load import listed
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import ASSISTANT
from memos_vllm.system import MemorySystem
from memos_vllm.vault.items import Owner
from tests.engine.harness import Server

KINDS = (
    "lost",  # an acknowledged write is gone
    "back",  # an acknowledged deletion is there
    "doubled",  # one write is there twice
    "half",  # a batch in part; a cube that does not open, or whose payload and items differ
    "index",  # vectors and vault differ
    "audit",  # the log does not verify
    "orphan",  # a process outlives what it depends on
    "stuck",  # a turn, a change to index or an erasure is not done in time
    "refused",  # a request failed before the kill, or for want of LMCache
    "unclear",  # without the database, an error that is no 503 in its route's envelope
    "wrong",  # a reply with loaded KV differs from a computed one
)
SETTLE_SECONDS = 90.0
_MOST_PENDING = 100_000


@dataclasses.dataclass(frozen=True)
class Violation:
    kind: str
    detail: str


@dataclasses.dataclass(frozen=True)
class _Held:
    """An item that a person has."""

    id: str
    text: str
    is_reply: bool
    """A model may say again what it reads."""
    cube: str


def settled(system: MemorySystem, seconds: float = SETTLE_SECONDS) -> Iterator[Violation]:
    """Wait until the server has made every turn memory and indexed every change.

    Args:
        system: of the server's home, not opened: it reads the same database.
    """
    until = time.monotonic() + seconds
    while system.turns.waiting() or system.outbox.size():
        if time.monotonic() > until:
            rest = f"{len(system.turns.waiting())} turns, {system.outbox.size()} changes to index"
            yield Violation("stuck", rest)
            return
        time.sleep(0.2)
    if failed := system.jobs.failed():
        yield Violation("stuck", f"{len(failed)} jobs are set aside: {failed[0].error}")


def served(
    server: Server, keys: tuple[str, str], ledger: Ledger, system: MemorySystem, tenant: str
) -> Iterator[Violation]:
    """Check what the server answers about the people of a run."""
    for person in ledger.people():
        with server.http(keys[0], person) as http:
            yield from _of_person(http, Owner(TenantId(tenant), PersonId(person)), ledger, system)
    for cube, person in ledger.adapters.items():
        with server.http(keys[0], person) as http:
            if http.get(f"/v1/memory/cubes/{cube}/adapter").status_code != 200:
                yield Violation("lost", f"the adapter {cube}")
    with server.http(keys[1]) as http:
        for erasure in ledger.erasures:
            if erasure.id is not None and not _receipt(http, erasure.id):
                yield Violation("stuck", f"the erasure of {erasure.person} has no receipt")
        page = http.get("/v1/memory/audit", params={"verify": True, "limit": 1}).json()
        if not page["intact"]:
            yield Violation("audit", str(page["problems"])[:300])


def errors(ledger: Ledger) -> Iterator[Violation]:
    """Errors that clients got and the kill does not explain."""
    yield from (Violation("refused", each) for each in ledger.refused)
    yield from (Violation("unclear", each) for each in ledger.unclear)


def _of_person(
    http: httpx.Client, owner: Owner, ledger: Ledger, system: MemorySystem
) -> Iterator[Violation]:
    facts = [fact for fact in ledger.facts if fact.person == owner.person]
    stored = {str(cube): ids for cube, ids in system.index_state.cubes(owner)}
    held: list[_Held] = []
    is_erased = any(each.id and each.person == owner.person for each in ledger.erasures)
    for cube in listed(http):
        whole = http.get(f"/v1/memory/cubes/{cube}")
        if whole.status_code != 200:
            yield Violation("half", f"{cube} does not open: {whole.status_code}")
            continue
        items: list[dict[str, Any]] = whole.json()["payload"]["content"]
        held += [
            _Held(item["id"], item["text"], item["speaker"] == ASSISTANT, cube) for item in items
        ]
        if {item["id"] for item in items} != stored.get(cube, set()):
            yield Violation("half", f"{cube}: its payload and its items differ")
    own = [item.text for item in held if not item.is_reply]
    said = Counter(own)
    for fact in facts:
        yield from _written(fact, said, own)
        if fact.fate is Fate.DELETED:
            yield from _deleted(fact, held, is_erased)
    for batch in {fact.batch for fact in facts if fact.batch is not None}:
        one = [fact for fact in facts if fact.batch == batch and fact.fate is Fate.UNKNOWN]
        created = [fact for fact in one if fact.cube is None]
        if len({said[fact.sentence] for fact in created}) > 1:
            yield Violation("half", f"batch {batch} of {owner.person}")
    for fact in [fact for fact in facts if fact.fate is Fate.DELETED][:3]:
        found = http.post("/v1/memory/search", json={"query": fact.word}).json()["results"]
        items = [hit["item"] for hit in found if fact.word in hit["item"]["text"]]
        if any(is_erased or item["speaker"] != ASSISTANT for item in items):
            yield Violation("back", f"{fact.word} of {owner.person}, by a search")


def _written(fact: Fact, said: Counter[str], own: list[str]) -> Iterator[Violation]:
    # A passage of a document stands below its heading.
    count = said[fact.sentence] or sum(fact.sentence in text for text in own)
    if fact.fate is Fate.KEPT and not count:
        yield Violation("lost", _shown(fact))
    if count > 1:
        yield Violation("doubled", _shown(fact))


def _deleted(fact: Fact, held: list[_Held], is_erased: bool) -> Iterator[Violation]:
    """Check that a fact is gone.

    Of other cubes only replies may repeat it, which the model gave before: they are memory of their own,
    until their person is erased.
    """
    for item in held:
        is_repeated = item.is_reply and not is_erased and item.id not in fact.forgotten
        if fact.word in item.text and (item.cube == fact.cube or not is_repeated):
            yield Violation("back", f"{_shown(fact)}, in {item.cube}")


def _shown(fact: Fact) -> str:
    return f"{fact.word} of {fact.person} ({'turn' if fact.turn else fact.cube})"


def _receipt(http: httpx.Client, erasure: str, seconds: float = SETTLE_SECONDS) -> bool:
    until = time.monotonic() + seconds
    while True:
        reply = http.get(f"/v1/memory/erasures/{erasure}")
        if reply.status_code == 200 and reply.json()["receipt"]:
            return bool(reply.json()["receipt"]["complete"])
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


def index(system: MemorySystem) -> Iterator[Violation]:
    """Compare the vectors with the vault, while no server runs. What waits in the outbox is left out."""
    assert system.index.claim(), "a server has the index"
    system.indexer.attach()
    try:
        yield from _index(system)
    finally:
        system.index.close()


def _index(system: MemorySystem) -> Iterator[Violation]:
    waiting = {str(work.cube) for work in system.outbox.pending(limit=_MOST_PENDING)}
    for owner in system.index_state.owners():
        cubes = {str(cube): ids for cube, ids in system.index_state.cubes(owner)}
        cubes = {cube: ids for cube, ids in cubes.items() if cube not in waiting}
        rows = system.index.count_by_cube(owner)
        for cube in (cubes.keys() | rows.keys()) - waiting:
            if rows[cube] != len(cubes.get(cube, ())):
                yield Violation("index", f"{cube}: {rows[cube]} vectors, {cubes.get(cube)}")
        wanted = sorted({item for ids in cubes.values() for item in ids})
        found = {item for item, _ in system.index.vectors(owner, "turn", wanted)}
        if missing := set(wanted) - found:
            yield Violation("index", f"{owner.person}: {len(missing)} items without a vector")
