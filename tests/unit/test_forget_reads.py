"""What an order to forget reads: a number of queries that does not grow with the person's cubes."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta, State
from memos_vllm.learning.feedback import Feedback
from memos_vllm.vault.vault import MemVault
from memos_vllm.vault.views import CubeFilter
from tests.conftest import principal
from tests.console import Browser, console_app, key_of
from tests.unit.conftest import ALICE


@pytest.fixture
def queries(system):
    """Statements that the vault's database has run."""
    found: list[str] = []

    def note(_connection, _cursor, statement, *_rest):
        found.append(statement)

    event.listen(system.database.engine, "before_cursor_execute", note)
    yield found
    event.remove(system.database.engine, "before_cursor_execute", note)


@pytest.fixture
def opened(system, monkeypatch):
    """Refs of the cubes whose payloads were read."""
    found: list[str] = []
    get = MemVault.get

    def counted(self, caller, ref, version=None):
        found.append(ref)
        return get(self, caller, ref, version)

    monkeypatch.setattr(MemVault, "get", counted)
    return found


def remember(system, *texts):
    new = [
        NewCube(meta=NewMeta(), payload=ExplicitPayload(content=[Item(text=text)]))
        for text in texts
    ]
    return system.create(ALICE, new)


def some(first, count):
    return [f"The parcel {number} is on shelf {number}." for number in range(first, first + count)]


def test_a_dry_run_takes_as_many_queries_for_many_cubes_as_for_few(system, queries, opened):
    remember(system, "I live in Paris.", *some(0, 4))
    counts = []
    for more in (0, 60):
        remember(system, *some(100, more)) if more else None
        opened.clear()
        queries.clear()
        done = Feedback(system).forget(ALICE, "I live in Paris", dry_run=True)
        assert [each.text for each in done.changes] == ["I live in Paris."]
        counts.append(len(queries))
        assert opened == []
    assert counts[0] == counts[1]


def test_the_preview_page_and_the_route_take_a_fixed_number_of_queries(system, queries, opened):
    app = console_app(system)
    key = key_of(system)
    browser = Browser(app, key)
    api = TestClient(create_app(system), headers={"Authorization": f"Bearer {key}"})
    remember(system, "I live in Paris.", *some(0, 4))

    def counts():
        found = []
        for ask in (
            lambda: browser.get("forget", person="alice", subject="I live in Paris"),
            lambda: api.post(
                "/v1/memory/feedback",
                json={"text": "Forget that I live in Paris.", "dry_run": True},
                headers={"X-Memos-User": "alice"},
            ),
        ):
            ask()
            queries.clear()
            reply = ask()
            assert "I live in Paris." in reply.text
            found.append(len([each for each in queries if each.startswith("SELECT")]))
        return found

    few = counts()
    remember(system, *some(100, 60))
    assert counts() == few
    assert opened == []


def test_forgetting_opens_the_cubes_that_lose_text_alone(system, opened):
    (paris, *_rest) = remember(system, "I live in Paris.", *some(0, 20))
    opened.clear()
    done = Feedback(system).forget(ALICE, "I live in Paris")
    assert [each.cube for each in done.changes] == [paris.meta.id]
    assert set(opened) == {paris.meta.id}


def test_archived_cubes_and_those_of_every_persona_are_read_and_others_are_not(system):
    home, _ = remember(system, "I live in Paris.", "My cat is called Tofu.")
    system.update(ALICE, home.meta.id, CubePatch(state=State.ARCHIVED))
    work = ALICE.in_persona("work")
    new = NewCube(meta=NewMeta(), payload=ExplicitPayload(content=[Item(text="I live in Rome.")]))
    system.create(work, [new])
    system.create(principal("bob"), [new])
    system.create(principal("alice", tenant="globex"), [new])
    found = [item.text for _, item in system.knowledge.own_items(ALICE)]
    assert found == ["I live in Paris.", "My cat is called Tofu.", "I live in Rome."]


def test_a_damaged_cube_stays_and_the_others_lose_the_text(system, monkeypatch):
    one, other = remember(system, "I live in Paris.", "I live in Paris, by the river.")
    files = [file for file in system.config.home.rglob("*") if file.is_file()]
    damaged = next(file for file in files if one.meta.id in str(file))
    damaged.write_bytes(b"x" * 10)
    done = Feedback(system).forget(ALICE, "I live in Paris")
    assert [each.cube for each in done.changes] == [other.meta.id]


def test_a_filter_by_state_is_part_of_the_query(system, queries):
    cubes = remember(system, *some(0, 5))
    system.update(ALICE, cubes[0].meta.id, CubePatch(state=State.ARCHIVED))
    queries.clear()
    found, _ = system.views.page(ALICE, CubeFilter(person="alice", state=State.ARCHIVED))
    assert [header.id for header in found] == [cubes[0].meta.id]
    (of_cubes,) = [each for each in queries if "FROM cubes" in each]
    assert "cubes.state = " in of_cubes
