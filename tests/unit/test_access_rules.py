"""Who may write, read and be shown what: a request's own access list has no say."""

from __future__ import annotations

import itertools

import pytest
import sqlalchemy as sa

from memos_vllm.activation.shared_prompts import SharedPrompts
from memos_vllm.cube.model import Access, CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import Conflict, Forbidden
from memos_vllm.governance.principal import Role
from memos_vllm.governance.salt import composed
from memos_vllm.learning import lifecycle
from memos_vllm.vault.idempotency import IdempotencyKey
from tests.conftest import principal

ADMIN = principal("", role=Role.ADMIN)
TEXT = ExplicitPayload(content=[Item(text="The office is closed on Mondays.")])


def new(name="wiki", **meta):
    return NewCube(meta=NewMeta(name=name, **meta), payload=TEXT)


# -- writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writers", ["admin", "tenant"])
@pytest.mark.parametrize("person", ["alice", ""])
def test_a_new_cubes_own_access_list_does_not_permit_its_creation(system, person, writers):
    caller = principal(person)
    access = Access(writers=writers, readers=["alice"])
    with pytest.raises(Forbidden):
        system.create(caller, [new("own"), new(shared=True, access=access)])
    with pytest.raises(Forbidden):
        system.create(caller, [new(person="bob", access=access)])
    assert system.views.owners(ADMIN) == []


def test_a_patch_with_an_access_list_is_judged_by_the_stored_one(system):
    closed = system.create(ADMIN, [new(shared=True)])[0].meta.id
    open_ = system.create(ADMIN, [new("open", shared=True, access=Access(writers="tenant"))])
    writer, cube = principal("alice"), open_[0].meta.id
    with pytest.raises(Forbidden):
        system.update(writer, closed, CubePatch(access=Access(writers="tenant")))
    for access in (Access(), Access(writers="tenant", readers=["alice"])):
        with pytest.raises(Forbidden, match="access list"):
            system.update(writer, cube, CubePatch(access=access, priority=5))
    unchanged = system.update(writer, cube, CubePatch(access=Access(writers="tenant"), priority=7))
    assert unchanged.meta.priority == 7
    assert system.update(ADMIN, cube, CubePatch(access=Access(readers=["bob"])))


def test_a_merge_needs_the_right_on_both_cubes(system):
    closed = system.create(ADMIN, [new(shared=True)])[0].meta.id
    open_ = system.create(ADMIN, [new("open", shared=True, access=Access(writers="tenant"))])
    for source, into in itertools.permutations((closed, open_[0].meta.id)):
        with pytest.raises((Forbidden, lifecycle.Unprocessable)):
            lifecycle.merge(system, principal("alice"), source, into)
    assert system.vault.get(ADMIN, closed).meta.sequence == 1


# -- prompts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_in_prompts_a_list_of_readers_counts_for_every_role(system, role):
    access = Access(readers=["carol"])
    made = system.create(ADMIN, [new("salaries", shared=True, placement="stable", access=access)])[
        0
    ]
    bob, carol = (principal(name, role=role) for name in ("bob", "carol"))
    item = made.items[0].id
    assert system.views.recall(bob, [item]) == {}
    assert system.views.stable(bob, []).texts == []
    assert not system.views.may_use(bob, [made.meta.id])
    assert system.search(bob, "When is the office closed?", None, 5).found == []
    assert list(system.views.recall(carol, [item])) == [item]
    shown = system.views.stable(carol, []).texts
    assert [(cube.cube_id, cube.is_listed) for cube in shown] == [(made.meta.id, True)]
    if role is Role.ADMIN:
        assert system.vault.get(bob, made.meta.id).meta.id == made.meta.id


# -- composed keys ------------------------------------------------------------------------------------


def test_an_idempotency_key_belongs_to_one_key_and_person_whatever_their_names_contain(system):
    sets = [
        ("u1:x", "k"),
        ("u1", "x:k"),
        ("u1", "k"),
        ("u" * 250, "k" * 199),
        ("u" * 250, "k" * 200),
    ]
    seen = set()
    for number, (person, key) in enumerate(sets):
        ask = IdempotencyKey(key, f"body {number}")
        first = system.create(principal(person), [new(f"n{number}")], ask)[0].meta.id
        again = system.create(principal(person), [new(f"n{number}")], ask)[0].meta.id
        assert first == again
        seen.add(first)
        with pytest.raises(Conflict):
            system.create(principal(person), [new("other")], IdempotencyKey(key, "another body"))
    assert len(seen) == len(sets)


def test_idempotency_keys_of_older_versions_are_found_where_they_are_unambiguous(system):
    for person, key, stored in (("ann", "k", "test:ann:k"), ("a:b", "k", "test:a:b:k")):
        asked = IdempotencyKey(key, "body")
        first = system.create(principal(person), [new()], asked)[0].meta.id
        with system.database.write() as session:
            session.execute(
                sa.text("UPDATE idempotency SET key = :old WHERE key = :new"),
                {"old": stored, "new": composed("idempotency", "test", person, key)},
            )
        if person == "ann":
            assert system.create(principal(person), [new()], asked)[0].meta.id == first
        else:
            with pytest.raises(Conflict):  # made again: its name is taken
                system.create(principal(person), [new()], asked)


@pytest.mark.parametrize(
    "other", [("a", "b:c"), ("a:b", "c"), ("", "abc"), ("abc",), ("a", "b", "")]
)
def test_a_composed_key_depends_on_where_its_parts_end(other):
    assert composed("a", "b", "c") != composed(*other)
    assert len(composed(*other)) == 64


# -- the tenant's system messages ---------------------------------------------------------------------


def test_by_default_no_number_of_senders_makes_a_message_shared(config, tmp_path):
    prompts = SharedPrompts(tmp_path, config.kv.shared_system_prompt_people)
    assert not any(prompts.is_shared("acme", f"p{n}", "Help Alice.") for n in range(10))
    left = {path.name for path in tmp_path.iterdir()} - {"vault.sqlite"}
    assert left == set(), "what people send leaves no trace"
    prompts.declare("acme", "Be brief.")
    assert prompts.is_shared("acme", "p", "Be brief.")
    assert not prompts.is_shared("globex", "p", "Be brief.")


def test_explain_tells_admins_alone_whose_kv_a_segment_is(system):
    from fastapi.testclient import TestClient

    from memos_vllm.api.app import create_app

    plan = {"kv": {"segments": [{"end": 9, "shared": True, "cubes": []}]}}
    for person in ("alice", "bob"):
        system.plans.put(principal(person), f"r-{person}", plan)
    _, key = system.keys.create("acme", Role.WRITER)
    _, admin = system.keys.create("acme", Role.ADMIN)
    with TestClient(create_app(system), client=("127.0.0.1", 1)) as http:
        for bearer, shown in ((key, None), (admin, True)):
            headers = {"Authorization": f"Bearer {bearer}", "X-Memos-User": "alice"}
            reply = http.get("/v1/memory/explain/r-alice", headers=headers)
            assert reply.json()["kv"]["segments"][0]["shared"] is shown


def test_a_person_named_with_escapes_is_the_same_person_in_every_list(system):
    """In a list of readers, in a group and in a restore, as in a header and a path."""
    jose, written = principal("josé/1"), "jos%C3%A9%2F1"
    made = system.create(ADMIN, [new("list", shared=True, access=Access(readers=[written]))])[0]
    assert system.vault.get(jose, "list").meta.id == made.meta.id
    assert system.vault.get(ADMIN, "list").meta.access.readers == ["josé/1"]
    system.groups.create(ADMIN, "team")
    system.groups.add(ADMIN, "team", written)
    assert [group.name for group in system.groups.all(jose)] == ["team"]
    system.groups.remove(ADMIN, "team", written)
    assert system.groups.all(jose) == []
    assert system.restores.owner_of(ADMIN, written).person == "josé/1"
