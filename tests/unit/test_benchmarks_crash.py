"""The checks after a kill find what they look for, on a real system; the ledger's words; the order of victims."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from benchmarks.crash import checks
from benchmarks.crash.__main__ import KINDS
from benchmarks.crash.conversations import is_clear
from benchmarks.crash.ledger import Erasure, Fate, Ledger, word_of
from benchmarks.crash.load import Errors, Load, Refused
from benchmarks.crash.runs import order, shown
from benchmarks.crash.table import crash
from benchmarks.crash.victims import VICTIMS
from benchmarks.record import ABSOLUTE_PATH
from memos_vllm.api.app import create_app
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal
from tests.http_server import served

TENANT, PERSON = "acme", "ann"


@dataclasses.dataclass
class Served:
    """A system behind HTTP, without an engine."""

    system: MemorySystem
    url: str
    keys: tuple[str, str]
    ledger: Ledger

    def http(self, key: str, person: str | None = None) -> httpx.Client:
        named = {"X-Memos-User": person} if person else {}
        headers = {"Authorization": f"Bearer {key}", **named}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def stored(self, count: int = 1) -> list[str]:
        """Facts of one batch, acknowledged; ids of their cubes."""
        batch, made = self.ledger.next_batch(), []
        for _ in range(count):
            fact = self.ledger.fact(PERSON, batch=batch)
            content = [{"type": "fact", "text": fact.sentence}]
            payload = {"type": "explicit", "format": "text", "content": content}
            with self.http(self.keys[0], PERSON) as http:
                reply = http.post("/v1/memory/cubes", json={"payload": payload})
            fact.cube = reply.raise_for_status().json()["meta"]["id"]
            fact.fate = Fate.KEPT
            made.append(str(fact.cube))
        return made

    def found(self) -> set[str]:
        """Kinds of violations."""
        found = checks.served(self, self.keys, self.ledger, self.system, TENANT)  # type: ignore[arg-type]
        return {each.kind for each in found}


@pytest.fixture
def world(tmp_path) -> Iterator[Served]:
    system = MemorySystem(make_config(tmp_path / "home")).open()
    writer, admin = (system.keys.create(TENANT, role)[1] for role in (Role.WRITER, Role.ADMIN))
    with served(create_app(system)) as url:
        yield Served(system, url, (writer, admin), Ledger(1))
    system.close()


def test_a_system_that_has_what_it_acknowledged_has_no_violation(world: Served):
    world.stored(3)
    assert world.found() == set()
    assert list(checks.settled(world.system, 5)) == []


def test_a_lost_write_a_deletion_that_is_back_and_a_double_are_found(world: Served):
    world.stored()
    world.ledger.fact(PERSON).fate = Fate.KEPT
    assert world.found() == {"lost"}
    world.ledger.facts[1].fate = Fate.UNKNOWN
    assert world.found() == set(), "a write that no reply acknowledged may be lost"
    world.ledger.facts[0].fate = Fate.DELETED
    assert world.found() == {"back"}
    world.ledger.facts[0].fate = Fate.KEPT
    with world.http(world.keys[0], PERSON) as http:
        content = [{"type": "fact", "text": world.ledger.facts[0].sentence}]
        payload = {"type": "explicit", "format": "text", "content": content}
        http.post("/v1/memory/cubes", json={"payload": payload}).raise_for_status()
    assert world.found() == {"doubled"}


def test_a_reply_that_repeats_a_deleted_fact_is_memory_of_its_own(world: Served):
    world.stored()
    (fact,) = world.ledger.facts
    with world.http(world.keys[0], PERSON) as http:
        http.delete(f"/v1/memory/cubes/{fact.cube}").raise_for_status()
        content = [{"type": "episode", "speaker": "assistant", "text": f"Who is {fact.word}?"}]
        payload = {"type": "explicit", "format": "text", "content": content}
        made = http.post("/v1/memory/cubes", json={"payload": payload}).raise_for_status().json()
    fact.fate = Fate.DELETED
    assert world.found() == set()
    fact.forgotten = frozenset({made["payload"]["content"][0]["id"]})
    assert world.found() == {"back"}, "the deletion named it"
    fact.forgotten = frozenset()
    held = [checks._Held("item", fact.word, True, str(made["meta"]["id"]))]
    assert [each.kind for each in checks._deleted(fact, held, is_erased=True)] == ["back"]


def test_half_a_batch_is_found(world: Served):
    first, _ = world.stored(2)
    for fact in world.ledger.facts:
        fact.fate, fact.cube = Fate.UNKNOWN, None
    assert world.found() == set()
    with world.http(world.keys[0], PERSON) as http:
        http.delete(f"/v1/memory/cubes/{first}").raise_for_status()
    assert world.found() == {"half"}


def test_a_cube_without_its_items_or_its_payload_is_found(world: Served):
    world.stored()
    with world.system.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM items"))
    assert world.found() == {"half"}
    for file in (world.system.config.root / "payloads").rglob("*"):
        if file.is_file():
            file.unlink()
    assert world.found() == {"half", "lost"}


def test_a_changed_audit_log_and_a_lost_adapter_and_a_refusal_are_found(world: Served):
    world.stored()
    with world.system.database.engine.begin() as connection:
        connection.execute(text("UPDATE audit_entries SET object = 'nothing' WHERE number = 1"))
    assert world.found() == {"audit"}
    world.ledger.adapters["cube_0000000000000000"] = PERSON
    assert "lost" in world.found()
    world.ledger.refused.append("chat: 500")
    world.ledger.unclear.append("chat: 500")
    assert [each.kind for each in checks.errors(world.ledger)] == ["refused", "unclear"]


def test_an_erasure_that_is_not_done_is_found(world: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks._receipt, "__defaults__", (0.1,))
    world.ledger.erasures.append(Erasure("bob"))
    assert world.found() == set(), "not acknowledged"
    world.ledger.erasures.append(Erasure("bob", "erasure_0000000000000000"))
    assert world.found() == {"stuck"}


def test_a_turn_that_waits_is_stuck_after_a_time(world: Served):
    world.system.turns.add(principal(PERSON), {"user": "Hello.", "reply": "Hi."})
    assert [each.kind for each in checks.settled(world.system, 0.1)] == ["stuck"]


def test_missing_and_surplus_vectors_are_found(world: Served):
    cube, other = world.stored(2)
    system = world.system
    (owner,) = (each for each in system.index_state.owners() if each.person == PERSON)
    ids = {str(each): items for each, items in system.index_state.cubes(owner)}
    assert list(checks._index(system)) == []
    system.index.delete(owner, sorted(ids[cube]))
    assert {each.kind for each in checks._index(system)} == {"index"}
    assert len(list(checks._index(system))) == 2, "the cube, and the item without a vector"
    with system.database.engine.begin() as connection:
        connection.execute(text("DELETE FROM items"))
        connection.execute(text("DELETE FROM outbox"))
    surplus = [each.detail for each in checks._index(system)]
    assert len(surplus) == 1
    assert other in surplus[0]


def test_words_have_one_length_and_none_is_a_part_of_another():
    words = [word_of(number) for number in range(0, 300_000, 7)]
    assert len(set(words)) == len(words)
    assert {len(word) for word in words} == {10}


def test_every_victim_is_killed_as_often_as_the_others_in_an_order_of_the_seed():
    counts = Counter(order(100, 0, VICTIMS))
    assert set(counts) == set(VICTIMS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert order(100, 0, VICTIMS) == order(100, 0, VICTIMS) != order(100, 1, VICTIMS)


@pytest.mark.parametrize(
    ("status", "body", "clear"),
    [
        (503, {"error": {"message": "no database", "type": "service_unavailable_error"}}, True),
        (503, {"type": "error", "error": {"message": "none", "type": "overloaded_error"}}, True),
        (503, {"detail": "no database"}, False),
        (503, [], False),
        (500, {"error": {"message": "no database", "type": "server_error"}}, False),
    ],
)
def test_a_clear_error_is_a_503_in_an_envelope(status: int, body: Any, clear: bool):
    assert is_clear(httpx.Response(status, json=body)) is clear


@pytest.mark.parametrize(
    ("allowed", "refused", "unclear"),
    [(Errors.NONE, 3, 0), (Errors.CLEAR, 0, 2), (Errors.ANY, 0, 0)],
)
def test_errors_of_clients_are_violations_by_what_is_away(
    allowed: Errors, refused: int, unclear: int
):
    ledger = Ledger(1)
    load = Load(None, ("", ""), ledger, "seed")  # type: ignore[arg-type]
    load.allowed = allowed
    for error in (Refused("500"), Refused("503", is_clear=True), httpx.ReadError("cut")):
        load._note("chat", error)
    assert (len(ledger.refused), len(ledger.unclear)) == (refused, unclear)


def test_a_record_s_details_hold_no_path_of_a_route():
    made = shown([checks.Violation("unclear", "POST /v1/messages: 500 ~/x")])
    assert made == ["unclear: POST …v1/messages: 500 …/x"]
    assert not ABSOLUTE_PATH.search(made[0])


def test_the_table_has_a_line_for_each_victim_and_one_for_the_end():
    facts = {"kept": 3, "deleted": 1, "unknown": 0}
    rows = [
        {
            "victim": victim,
            "facts": facts,
            "erasures": 1,
            "answers_again_seconds": 2.0,
            "violations": {},
        }
        for victim in VICTIMS
    ]
    rows[0]["violations"] = {"lost": 2}
    config = {
        "clients": 3,
        "killed_after_seconds_at_most": 5.0,
        "service_away_seconds_at_most": 6.0,
    }
    ends = [{"server": name, "violations": {}} for name in ("SQLite", "PostgreSQL")]
    made = crash({"rows": [*rows, *ends], "config": config})
    lines = [line for line in made.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(VICTIMS) + 2
    assert "24 writes and 8 deletions" in made
    assert lines[2].split("|")[3].strip() == "2"
    assert list(KINDS) == [cell.strip() for cell in lines[0].split("|")[3 : 3 + len(KINDS)]]
