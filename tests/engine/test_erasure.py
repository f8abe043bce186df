"""A person erased on a running server: no text, no cache hit and no vector of before, also after a restart."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from memos_vllm.governance import receipts
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config
from tests.engine.harness import Server, cached_tokens, chat, wait_for
from tests.engine.test_remembers import items_of
from tests.erasure import CANARIES, NAME, findings


@pytest.fixture(scope="module")
def erasing(homes: Path):
    folder = homes / "erasing"
    folder.mkdir()
    system = MemorySystem(make_config(folder / "home")).open()
    keys = {role: system.keys.create("acme", role)[1] for role in (Role.WRITER, Role.ADMIN)}
    system.close()
    with Server(folder, home=folder / "home").running() as server:
        yield server, folder, keys


def test_an_erased_person_leaves_nothing_on_a_running_server(erasing) -> None:
    server, folder, keys = erasing
    key, admin = keys[Role.WRITER], server.http(keys[Role.ADMIN])
    bob = server.http(key, "bob")
    question = f"{CANARIES[0]} {'and then some more words ' * 30}"
    for canary, session in zip(CANARIES, itertools.cycle((CANARIES[0], "monday")), strict=False):
        chat(server, key, NAME, f"I like {canary}.", session_id=session)
    chat(server, key, "bob", "I live in Lisbon.", session_id="a")
    options = {"memory": {"write": False, "retrieve": False}}
    chat(server, key, NAME, question, **options)
    assert cached_tokens(chat(server, key, NAME, question, **options)) > 64
    http = server.http(keys[Role.ADMIN])
    wait_for(lambda: "I live in Lisbon." in items_of(bob), "bob's turn becoming memory")
    mine = {"person": NAME}
    wait_for(
        lambda: len(http.get("/v1/memory/cubes", params=mine).json()["cubes"]) >= 2,
        "the turns becoming memory",
    )
    asked = {"person": NAME}
    done = admin.post("/v1/memory/erasures", json=asked, params={"wait": 60}).raise_for_status()
    path = f"/v1/memory/erasures/{done.json()['id']}"
    receipt = wait_for(lambda: admin.get(path).json()["receipt"], "the receipt", 300)
    public = receipt["public_key"]
    assert receipts.problems(receipt, pinned=receipts.fingerprint(public)) == []
    again = chat(server, key, NAME, question, **options)
    assert cached_tokens(again) < 32, "a block of before was hit"
    assert http.get("/v1/memory/cubes", params=mine).json()["cubes"] == []
    assert "I live in Lisbon." in items_of(bob)
    erased = admin.post("/v1/memory/erasures", json=asked).raise_for_status().json()["id"]
    wait_for(lambda: admin.get(f"/v1/memory/erasures/{erased}").json()["receipt"], "it", 300)
    assert findings(folder, NAME, *CANARIES) == [], "home, and the server's log"
    server.kill()
    server.start()
    assert findings(folder, NAME, *CANARIES) == []
    assert "I live in Lisbon." in items_of(server.http(key, "bob"))
    assert cached_tokens(chat(server, key, NAME, question, **options)) < 32
