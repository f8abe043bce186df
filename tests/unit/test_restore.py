"""Restore of a person's memory: as new versions, once, and for those who may."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from memos_vllm.api.app import create_app
from memos_vllm.cli.main import app as cli
from memos_vllm.cube.ids import to_us
from memos_vllm.cube.model import (
    CubePatch,
    Item,
    Placement,
    State,
)
from memos_vllm.governance.principal import EVERY_PERSONA, PERSONAL, Role, Scope
from memos_vllm.learning.feedback import Feedback
from memos_vllm.learning.restore import Restoring
from memos_vllm.vault.views import CubeFilter
from tests.conftest import freeze, principal
from tests.unit.conftest import ALICE
from tests.unit.moments import ADMIN, BOB, change, keep, now


def everything(system, who=ALICE):
    """What prompts can hold of a person's memory, and where it stands."""
    everyone = who.in_persona(EVERY_PERSONA)
    headers, _ = system.views.page(everyone, CubeFilter(person=who.person, state=State.ACTIVATED))
    return {
        header.name: (
            header.placement,
            sorted(header.tags),
            [item.text for item in system.vault.get(everyone, header.id).items],
        )
        for header in headers
    }


def restore(system, moment, person="alice"):
    ordered = system.restores.add(ADMIN, person, to_us(moment))
    Restoring(system).job(ordered.id)
    return system.restores.get(ADMIN, person, ordered.id).report["cubes"]


def test_memory_is_as_it_was_and_can_be_restored_back(system, chat):
    chat("My cat is called Miso.")
    keep(system, "The door is blue.", name="door", tags=["house"])
    keep(system, "At work.", name="desk", tags=["persona:work"])
    gone = keep(system, "To be archived.", name="attic")
    keep(system, "Bob's.", who=BOB, name="his")
    first, before = now(), everything(system)
    chat("My cat is called Tofu now, not Miso.")
    change(system, "door", "The door is green.", tags=[], placement=Placement.STABLE)
    change(system, "desk", "Nowhere.")
    change(system, gone, state=State.ARCHIVED)
    change(system, "his", "Bob's own.", who=BOB)
    keep(system, "Made later.", name="later")
    second, after, his = now(), everything(system), everything(system, BOB)
    versions = system.vault.history(ALICE, "door")
    assert restore(system, first)
    assert everything(system) == before
    assert everything(system, BOB) == his
    assert system.vault.history(ALICE, "door")[1:] == versions, "nothing is rewritten"
    assert "blue" in str(system.search(ALICE, "door", None, 3).found[0].recalled.item.text)
    assert restore(system, second)
    assert everything(system) == after
    assert restore(system, now()) == []


def test_a_dry_run_lists_the_differences_and_changes_nothing(system):
    door = keep(system, "The door is blue.", "The hall is red.", name="door")
    keep(system, "Same.", name="same")
    first = now()
    change(system, door, "The door is green.", "The hall is red.")
    later = keep(system, "Made later.", name="later")
    held = keep(system, "Evidence.", name="held")
    freeze(system, held)
    before = everything(system)
    found = {each.cube: each for each in Restoring(system).preview(ADMIN, "alice", to_us(first))}
    assert everything(system) == before
    assert set(found) == {door, later, held}
    assert (found[door].action, found[door].added, found[door].removed) == ("restored", 1, 1)
    assert found[later].action == "archived"
    assert found[held].action == "held"
    report = {each["cube"]: each for each in restore(system, first)}
    assert report == {cube: each.model_dump() for cube, each in found.items()}


def test_what_was_deleted_or_forgotten_does_not_come_back(system, chat):
    chat("I live in Paris.")
    keep(system, "The canary sings.", name="canary")
    first = now()
    Feedback(system).say(ALICE, "Forget that I live in Paris")
    system.delete(ALICE, "canary")
    restore(system, first)
    assert "Paris" not in str(everything(system))
    assert "canary" not in str(everything(system))


def test_a_frozen_cube_stays_and_an_expired_one_does(system):
    held = keep(system, "The door is blue.", name="held")
    ended = keep(system, "The key is here.", name="ended")
    first = now()
    change(system, held, "The door is green.")
    freeze(system, held)
    change(system, ended, "The key is there.")
    change(system, ended, state=State.EXPIRED)
    before = system.vault.get(ALICE, held)
    actions = {each["cube"]: each["action"] for each in restore(system, first)}
    assert actions == {held: "held", ended: "expired"}
    assert system.vault.get(ALICE, held) == before


def test_a_merge_is_taken_back(system):
    from memos_vllm.learning import lifecycle

    keep(system, "Bread is good.", name="old")
    keep(system, "Tea is good.", name="new")
    first, before = now(), everything(system)
    lifecycle.merge(system, ALICE, "old", "new")
    second, merged = now(), everything(system)
    restore(system, first)
    assert everything(system) == before
    restore(system, second)
    assert everything(system) == merged


def test_what_is_said_after_the_order_stays(system):
    cube = keep(system, "One.", name="n")
    first = now()
    change(system, cube, "Two.")
    ordered = system.restores.add(ADMIN, "alice", to_us(first))
    now()
    system.update(ALICE, cube, CubePatch(append=[Item(text="Three.")]))
    keep(system, "New.", name="new")
    Restoring(system).job(ordered.id)
    assert [item.text for item in system.vault.get(ALICE, cube).items] == ["One.", "Three."]
    assert "new" in everything(system)
    system.update(ALICE, cube, CubePatch(append=[Item(text="Four.")]))
    versions = len(system.vault.history(ALICE, cube))
    Restoring(system).job(ordered.id)
    assert len(system.vault.history(ALICE, cube)) == versions, "a second run changes nothing"


CHILD = """
import os, signal, sys
from memos_vllm.learning.restore import Restoring
from memos_vllm.system import MemorySystem
from tests.conftest import make_config
from pathlib import Path
system = MemorySystem(make_config(Path(sys.argv[1]))).open()
left = [int(sys.argv[3])]
whole = system.vault.update
def dying(*args, **more):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*args, **more)
system.vault.update = dying
Restoring(system).job(sys.argv[2])
"""


def test_a_killed_restore_goes_on(system, tmp_path):
    cubes = [keep(system, f"Old {n}.", name=f"n{n}") for n in range(4)]
    merged = keep(system, "Merged.", name="merged")
    change(system, merged, state=State.MERGED)
    first = now()
    change(system, merged, state=State.ARCHIVED)
    for cube in cubes:
        change(system, cube, "New.")
    before = len(system.vault.history(ALICE, merged))
    ordered = system.restores.add(ADMIN, "alice", to_us(first))
    for number in (2, 3):  # after two cubes, then between two states of the last one
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path), ordered.id, str(number)], check=False
        )
        assert child.returncode == -signal.SIGKILL
    assert system.restores.get(ADMIN, "alice", ordered.id).state == "queued"
    Restoring(system).job(ordered.id)
    done = system.restores.get(ADMIN, "alice", ordered.id)
    assert done.state == "done"
    assert {each["cube"] for each in done.report["cubes"]} == {*cubes, merged}
    assert [system.vault.get(ALICE, cube).items[0].text for cube in cubes] == [
        f"Old {n}." for n in range(4)
    ]
    assert [len(system.vault.history(ALICE, cube)) for cube in cubes] == [3] * 4
    assert system.vault.get(ALICE, merged).meta.state is State.MERGED
    assert len(system.vault.history(ALICE, merged)) <= before + 2


def test_who_may_restore_over_http(system):
    keep(system, "The door is blue.", name="door")
    moment = now().isoformat()
    change(system, "door", "The door is green.")
    secrets = {role: system.keys.create("acme", role)[1] for role in Role}
    writer = system.keys.authenticate(secrets[Role.WRITER])

    def token(person, *scopes):
        return system.keys.tokens.create(writer, person, list(scopes), 900)[1]

    _, foreign = system.keys.create("other", Role.ADMIN)
    app = create_app(system)

    def post(secret, body, person="alice"):
        http = TestClient(app, raise_server_exceptions=False)
        headers = {"Authorization": f"Bearer {secret}"}
        return http.post(f"/v1/memory/people/{person}/restore", json=body, headers=headers)

    dry = {"as_of": moment, "dry_run": True}
    refused = [
        secrets[Role.READER],
        secrets[Role.WRITER],
        token("alice", Scope.READ, Scope.CHAT),
        token("bob", *PERSONAL),
    ]
    assert [post(each, dry).status_code for each in refused] == [403] * 4
    assert post("", dry).status_code == 401
    assert post(foreign, dry).json()["cubes"] == [], "its own tenant has no such person"
    own = token("alice", Scope.WRITE, Scope.READ)
    for each in (own, secrets[Role.ADMIN]):
        assert [c["action"] for c in post(each, dry).json()["cubes"]] == ["restored"]
    ordered = post(own, {"as_of": moment})
    assert ordered.status_code == 202
    Restoring(system).job(ordered.json()["id"])
    http = TestClient(
        app, headers={"Authorization": f"Bearer {own}"}, raise_server_exceptions=False
    )
    path = f"/v1/memory/people/alice/restores/{ordered.json()['id']}"
    done = http.get(path).json()
    assert (done["state"], len(done["cubes"])) == ("done", 1)
    assert http.get(path.replace("alice", "bob")).status_code == 403
    assert http.get("/v1/memory/people/alice/restores/none").status_code == 404
    for bad in (
        {"as_of": "2999-01-01T00:00:00Z"},
        {"as_of": "2026-01-01T00:00:00"},
        {},
        {"as_of": 3, "x": 1},
    ):
        assert post(own, bad).status_code == 400, bad
    records = [e for e in system.audit.read(ADMIN, 0, 1000) if e["action"] == "memory.restore"]
    assert len(records) == 1


@pytest.mark.parametrize(
    "person", ["zo\u00eb m\u00fcller", "a/b", "\u738b\u5c0f\u660e", "x/tokens"]
)
def test_names_of_people_are_no_syntax(system, person):
    who = principal(person)
    keep(system, "The door is blue.", who=who, name="door")
    moment = now().isoformat()
    change(system, "door", "The door is green.", who=who)
    _, key = system.keys.create("acme", Role.ADMIN)
    http = TestClient(create_app(system), headers={"Authorization": f"Bearer {key}"})
    from urllib.parse import quote

    ordered = http.post(
        f"/v1/memory/people/{quote(person, safe='')}/restore", json={"as_of": moment}
    ).json()
    Restoring(system).job(ordered["id"])
    assert system.vault.get(who, "door").items[0].text == "The door is blue."


def test_the_command_restores(system, config, tmp_path):
    who = principal("alice", "local")
    keep(system, "The door is blue.", who=who, name="door")
    moment = now().isoformat()
    change(system, "door", "The door is green.", who=who)
    system.close()
    file = tmp_path / "memos.yaml"
    file.write_text(json.dumps(json.loads(config.model_dump_json(include={"home", "embedder"}))))
    runner = CliRunner()
    command = ["restore", "alice", "--as-of", moment, "--json", "--config", str(file)]
    listed = runner.invoke(cli, [*command, "--dry-run"])
    assert [each["action"] for each in json.loads(listed.stdout)] == ["restored"]
    done = runner.invoke(cli, command)
    assert [each["action"] for each in json.loads(done.stdout)] == ["restored"], done.output
    assert json.loads(runner.invoke(cli, command).stdout) == []
    future = runner.invoke(cli, ["restore", "alice", "--as-of", "2999-01-01T00:00:00Z"])
    assert future.exit_code == 1
