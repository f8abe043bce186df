"""The table of transitions: every pair of states, for everyone, through the API; and the legal hold."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.ids import SHARED, now_us
from memos_vllm.cube.lifecycle import TRANSITIONS, Actor
from memos_vllm.cube.model import (
    Access,
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
    State,
)
from memos_vllm.errors import Conflict, Forbidden, MemosError, Unprocessable
from memos_vllm.governance.principal import Principal, Role, Scope
from memos_vllm.learning.feedback import Feedback
from memos_vllm.vault.forgotten import Forgotten
from memos_vllm.vault.jobs import PURGE, Lane
from tests.conftest import freeze, principal
from tests.unit.conftest import ALICE

ADMIN = principal("", role=Role.ADMIN)
ROOT = Path(__file__).resolve().parents[2]
PAIRS = list(itertools.permutations(State, 2))
CALLERS = ("owner by token", "owner by key", "writer", "admin", "reader", "other person")


def put_into(system, cube: str, state: State) -> None:
    with system.database.write() as session:
        session.execute(
            sa.text("UPDATE cubes SET state = :state WHERE id = :id"), {"state": state, "id": cube}
        )


def state_of(system, cube: str) -> str:
    with system.database.read() as session:
        return session.scalar(sa.text("SELECT state FROM cubes WHERE id = :id"), {"id": cube})


@pytest.fixture
def world(system):
    """A cube of alice's, one of the tenant's that all may write, and a client for each caller."""
    own = system.create(principal("alice"), [NewCube(payload=ExplicitPayload(content="Tea."))])[
        0
    ].meta.id
    access = Access(writers="tenant")
    shared = system.create(
        ADMIN,
        [
            NewCube(
                meta=NewMeta(shared=True, access=access), payload=ExplicitPayload(content="Ours.")
            )
        ],
    )[0].meta.id
    secrets = {role: system.keys.create("acme", role)[1] for role in Role}
    app = create_app(system)

    def client(secret, person=""):
        headers = {"Authorization": f"Bearer {secret}"} | (
            {"X-Memos-User": person} if person else {}
        )
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    _, token = system.keys.tokens.create(
        system.keys.authenticate(secrets[Role.WRITER]),
        "alice",
        [Scope.READ, Scope.WRITE],
        900,
    )
    return {
        "owner by token": (client(token), own, Actor.OWNER),
        "owner by key": (client(secrets[Role.WRITER], "alice"), own, Actor.OWNER),
        "writer": (client(secrets[Role.WRITER], "alice"), shared, Actor.WRITER),
        "admin": (client(secrets[Role.ADMIN], "alice"), own, Actor.ADMIN),
        "reader": (client(secrets[Role.READER], "alice"), own, None),
        "other person": (client(secrets[Role.WRITER], "bob"), own, None),
    }


@pytest.mark.parametrize("caller", CALLERS)
def test_every_pair_of_states_for_everyone(system, world, caller):
    http, cube, actor = world[caller]
    seen = set()
    for old, new in PAIRS:
        put_into(system, cube, old)
        body = {"state": new, "reason": "case 7"}
        status = http.patch(f"/v1/memory/cubes/{cube}", json=body).status_code
        legal = TRANSITIONS.get((old, new))
        if actor is None:
            expected = 404 if caller == "other person" else 403
        elif legal is None:
            expected = 422
        else:
            expected = 200 if actor in legal else 403
        assert status == expected, (caller, old, new)
        assert state_of(system, cube) == (new if status == 200 else old)
        seen.add(status)
    assert 200 in seen or actor is None


def test_every_pair_of_states_for_the_sweep(system, world):
    cube = world["admin"][1]
    sweep = Principal(ALICE.tenant, Role.ADMIN, "sweep", ALICE.person, is_sweep=True)
    for old, new in PAIRS:
        put_into(system, cube, old)
        error = None
        try:
            system.update(sweep, cube, CubePatch(state=new, reason="case 7"))
        except MemosError as refused:
            error = type(refused)
        legal = TRANSITIONS.get((old, new))
        expected = Unprocessable if legal is None else Forbidden
        assert error is (None if legal and Actor.SWEEP in legal else expected), (old, new)


def test_the_documented_table_is_the_one_in_force():
    text = (ROOT / "docs/lifecycle.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\w+) \| ([\w, ]+) \|$", text, re.M)
    documented = {(old, new): who.split(", ") for old, new, who in rows if old in list(State)}
    assert documented == {
        (old.value, new.value): [each.value for each in Actor if each in who]
        for (old, new), who in TRANSITIONS.items()
    }


# -- the hold -----------------------------------------------------------------------------------------


def test_a_hold_needs_a_reason_which_stands_in_the_audit_log(system, world):
    http, cube, _ = world["admin"]
    path = f"/v1/memory/cubes/{cube}"
    for body in ({"state": "frozen"}, {"state": "frozen", "reason": "  "}):
        refused = http.patch(path, json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "reason")
    assert http.patch(path, json={"state": "frozen", "reason": "case 7"}).status_code == 200
    lifted = http.patch(path, json={"state": "archived", "reason": "case 7 is closed"})
    assert lifted.status_code == 200
    records = [each for each in system.audit.read(ADMIN, 0, 1000) if each["object"] == cube]
    holds = [
        (each["action"], each["detail"]["reason"])
        for each in records
        if each["action"] in ("cube.freeze", "cube.release")
    ]
    assert holds == [("cube.freeze", "case 7"), ("cube.release", "case 7 is closed")]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"tags": ["x"]},
        {"priority": 3},
        {"placement": "stable"},
        {"expires": "2001-01-01T00:00:00Z"},
        {"access": {"readers": ["bob"]}},
        {"append": [{"text": "more"}]},
        {"payload": {"type": "explicit", "content": "else"}},
        {"state": "frozen", "reason": "again"},
        {"provenance": {"note": "x"}},
    ],
)
def test_nothing_of_a_frozen_cube_changes_not_even_by_an_admin(system, world, change):
    cube = world["admin"][1]
    freeze(system, cube)
    before = system.vault.get(ADMIN, cube)
    for caller in ("admin", "owner by token", "owner by key"):
        assert world[caller][0].patch(f"/v1/memory/cubes/{cube}", json=change).status_code == 422
    assert system.vault.get(ADMIN, cube) == before


def test_a_frozen_cube_past_its_end_is_protected_and_in_no_prompt(system, world):
    cube = world["admin"][1]
    freeze(system, cube)
    with system.database.write() as session:
        session.execute(
            sa.text("UPDATE cubes SET expires_us = :at WHERE id = :id"),
            {"at": now_us() - 1, "id": cube},
        )
    with pytest.raises(Conflict, match="frozen"):
        system.delete(principal("alice"), cube)
    item = system.vault.get(ADMIN, cube).items[0].id
    assert system.views.recall(principal("alice"), [item]) == {}
    with pytest.raises(Forbidden):
        system.update(principal("alice"), cube, CubePatch(state=State.ARCHIVED))


@pytest.mark.parametrize("order", ["Forget that I live in Paris.", "Forget everything about me."])
def test_no_order_reaches_a_frozen_cube_and_the_reply_says_so(system, chat, order):
    chat("I live in Paris.")
    freeze(system, "chat-s#1")
    before = system.vault.get(ALICE, "chat-s#1")
    told = Feedback(system).say(ALICE, order)
    assert told.held >= 1
    assert system.vault.get(ALICE, "chat-s#1") == before
    chat(order)
    assert system.vault.get(ALICE, "chat-s#1") == before


def test_what_was_forgotten_before_a_hold_is_purged_after_it(system, chat):
    chat("I live in Paris.")
    cube = system.vault.get(ALICE, "chat-s#1").meta
    done = Feedback(system).say(ALICE, "Forget that I live in Paris")
    subject = Forgotten(done.undo, cube.id, cube.version, cube.state).subject
    freeze(system, cube.id)
    with system.database.write() as session:
        session.execute(sa.text("UPDATE jobs SET not_before_us = 0 WHERE name = 'purge'"))
    claimed = {}
    while (job := system.jobs.claim(Lane.FAST, "test")) is not None:
        claimed[job.subject] = job
        if job.name == PURGE:
            system.forgotten.purge(job.subject)
        system.jobs.done(job)
    assert subject in claimed
    assert system.vault.get(ALICE, cube.id, cube.version).items, "the hold keeps it"
    admin = principal("alice", role=Role.ADMIN)
    system.update(admin, cube.id, CubePatch(state=State.ACTIVATED, reason="closed"))
    with system.database.write() as session:
        session.execute(sa.text("UPDATE jobs SET not_before_us = 0 WHERE name = 'purge'"))
    job = system.jobs.claim(Lane.FAST, "test")
    assert job is not None
    system.forgotten.purge(job.subject)
    with pytest.raises(MemosError):
        system.vault.get(ALICE, cube.id, cube.version)


def test_a_reader_that_loses_the_source_keeps_a_frozen_derived_cube_out_of_prompts(system):
    source = system.create(
        ADMIN, [NewCube(meta=NewMeta(shared=True), payload=ExplicitPayload(content="Plan B."))]
    )[0].meta
    made = NewCube.model_validate(
        {
            "meta": {"provenance": {"parents": [source.id], "parent_versions": [source.version]}},
            "payload": {"type": "explicit", "content": [Item(text="It is plan B.").model_dump()]},
        }
    )
    alice = principal("alice")
    cube = system.create(alice, [made])[0]
    freeze(system, cube.meta.id)
    system.update(ADMIN, source.id, CubePatch(access=Access(readers=["bob"])))
    assert state_of(system, cube.meta.id) == State.FROZEN
    assert system.views.recall(alice, [cube.items[0].id]) == {}
    assert SHARED == ""
