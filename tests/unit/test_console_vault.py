"""Queries of the console, on SQLite and Postgres: people, plans, questions, claims by page, ended sessions."""

from __future__ import annotations

import pytest

from memos_vllm.cube.model import Claim, ExplicitPayload, Item, NewCube
from memos_vllm.errors import BadRequest, Forbidden, Unauthorized
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from memos_vllm.vault.people import People
from tests.conftest import make_config, principal
from tests.console import Browser, console_app, key_of, store_plan

ADMIN = principal("", role=Role.ADMIN)


@pytest.fixture
def system(tmp_path, database_url):
    opened = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    yield opened
    opened.close()


def store(system, person, *items, tenant="acme"):
    new = NewCube(payload=ExplicitPayload(content=list(items)))
    return system.vault.create(principal(person, tenant), new)


def test_people_are_paged_by_name_for_the_admin_of_their_tenant(system):
    for name in ("ann", "bob", "b%b", "b_b", "céline", "Dora"):
        store(system, name, Item(text="x"))
    store(system, "other", Item(text="x"), tenant="rival")
    people = People(system.database)
    found, after = [], ""
    while after is not None:
        page, after = people.page(ADMIN, after, limit=2)
        found += [each.person for each in page]
    assert sorted(found) == sorted(["ann", "bob", "b%b", "b_b", "céline", "Dora"])
    assert len(found) == 6
    assert [each.person for each in people.page(ADMIN, prefix="b%")[0]] == ["b%b"]
    assert [each.person for each in people.page(ADMIN, prefix="b_")[0]] == ["b_b"]
    for role in (Role.READER, Role.WRITER):
        with pytest.raises(Forbidden):
            people.page(principal("ann", role=role))


def test_plans_are_those_of_the_person_or_of_the_tenant_for_its_admin(system):
    for number in range(5):
        store_plan(system, f"a{number}", "alice")
    store_plan(system, "b", "bob")
    store_plan(system, "r", "alice", tenant="rival")
    store_plan(system, "none", "")

    def ids(who, limit=50):
        found, cursor = [], None
        while True:
            page, cursor = system.plans.page(who, cursor, limit)
            found += [each.request_id for each in page]
            if cursor is None:
                return found

    assert ids(principal("alice"), 2) == ["a4", "a3", "a2", "a1", "a0"]
    assert ids(principal("alice", role=Role.ADMIN)) == ["a4", "a3", "a2", "a1", "a0"]
    assert ids(principal("bob")) == ["b"]
    assert ids(principal("")) == ["none"]
    assert set(ids(ADMIN, 3)) == {"a0", "a1", "a2", "a3", "a4", "b", "none"}
    with pytest.raises(BadRequest):
        system.plans.page(ADMIN, "no cursor")


def test_a_question_is_shown_to_its_person_alone(system):
    store(system, "alice", Item(text="Which tea?", source="r1:user"), Item(text="x", source="r1"))
    assert system.plans.question(principal("alice"), "r1") == "Which tea?"
    assert system.plans.question(principal("bob"), "r1") is None
    assert system.plans.question(principal("alice", "rival"), "r1") is None
    assert system.plans.question(principal("alice"), "r2") is None


def test_claims_come_in_pages(system):
    store(
        system,
        "alice",
        *(
            Item(text=f"fact {number}", claim=Claim(subject="alice", attribute=f"a{number}"))
            for number in range(7)
        ),
    )
    found = [
        each.item.text
        for offset in (0, 3, 6, 9)
        for each in system.knowledge.claims(principal("alice"), limit=3, offset=offset)
    ]
    assert sorted(found) == [f"fact {number}" for number in range(7)]


def test_an_ended_session_is_over(system):
    store = system.keys.sessions
    session, cookie = store.begin(ADMIN, "key", 100)
    assert store.read(cookie) == session
    store.end(ADMIN, session)
    store.end(ADMIN, session)
    with pytest.raises(Unauthorized):
        store.read(cookie)


def test_the_pages_work_on_this_database(system):
    store(system, "alice", Item(text="Alice likes tea."))
    store_plan(system, "r1")
    browser = Browser(console_app(system), key_of(system))
    for path in ("", "people", "plans", "cost", "keys", "audit", "policy", "erasures", "groups"):
        assert browser.get(path).status_code == 200, path
    for path in ("person", "person/facts", "person/cubes", "person/search", "forget", "access"):
        reply = browser.get(path, person="alice", q="tea", subject="tea")
        assert reply.status_code == 200, path
    for hostile in ("%", "_", "'; DROP TABLE cubes; --", "\\", "\u202e", "😀" * 50):
        for path in ("people", "person/cubes", "person/facts", "person/search"):
            query = {"prefix": hostile, "attribute": hostile, "q": hostile, "person": "alice"}
            assert browser.get(path, **query).status_code == 200, (path, hostile)
        assert browser.get("cube", cube=hostile).status_code in (400, 404)
        assert browser.get("plan", request=hostile).status_code == 404
    for path in ("people", "person/cubes", "person/facts", "cube", "plan"):
        query = {"prefix": "a\x00", "attribute": "a\x00", "cube": "a\x00", "request": "a\x00"}
        assert browser.get(path, **query).status_code == 400, path
