"""Exports of other systems in a real vault: claims with the time of then, twice, interrupted, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import ASSISTANT, ItemType
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Role, Scope
from memos_vllm.importers.any_file import kind_of, source_of
from memos_vllm.importers.files import content_sha256
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.source import ImportSource
from memos_vllm.importers.write import run_import
from memos_vllm.learning.imported import ImportedTurns
from memos_vllm.system import MemorySystem
from memos_vllm.vault.jobs import READ, Lane
from memos_vllm.vault.views import CubeFilter
from tests.conftest import make_config, principal
from tests.unit import exports
from tests.unit.persons import exported

ALICE = principal("alice")
ADMIN = principal("", role=Role.ADMIN)
ALICES_ADMIN = principal("alice", role=Role.ADMIN)


@pytest.fixture
def vault(tmp_path: Path, database_url: str) -> Iterator[MemorySystem]:
    """A server on SQLite, and one on Postgres; Chroma is real."""
    opened = MemorySystem(make_config(tmp_path / "home", database={"url": database_url})).open()
    yield opened
    opened.close()


def bring_in(
    system: MemorySystem,
    path: Path,
    person: str | None = "alice",
    source: ImportSource | None = None,
) -> ImportPosition:
    source = source or source_of(system, path, kind_of(path), person, ADMIN.tenant)
    identity = {"tenant": ADMIN.tenant, "person": person}
    folder = system.config.root / "imports"
    position = ImportPosition.load(folder, path, content_sha256(path), identity)
    learner = ImportedTurns(system, f"import:{source.format}")
    run_import(system, ADMIN, source, position, learner=learner)
    return position


def known(system: MemorySystem) -> dict[str, Any]:
    return {each.item.text: each.item for each in system.knowledge.claims(ALICE)}


def all_of(system: MemorySystem) -> list[dict[str, Any]]:
    """The person's whole memory, with all versions."""
    return exported(system, Path(system.config.root) / "all.jsonl", ALICES_ADMIN)


def test_what_the_person_told_chatgpt_becomes_claims_of_then(
    vault: MemorySystem, tmp_path: Path
) -> None:
    bring_in(vault, exports.chatgpt_zip(tmp_path / "export.zip"))
    claims = known(vault)
    values = {item.claim.value for item in claims.values()}
    assert {"Miso", "Paris", "Rex"} <= values
    cat = next(item for item in claims.values() if item.claim.value == "Miso")
    assert cat.time == datetime.fromtimestamp(exports.T0 + 1, UTC)
    assert cat.speaker == "alice"
    assert cat.claim.sources == ["q1:user"]
    told = " ".join(claims)
    assert "pilot" not in told
    assert "data centre" not in told
    cube = vault.vault.get(ALICE, "chatgpt:68b0-c1:1")
    assert [item.speaker for item in cube.items] == [
        "alice",
        ASSISTANT,
        "alice",
        ASSISTANT,
        "alice",
    ]
    assert cube.items[0].session == "68b0-c1"
    found = vault.search(ALICE, "茶", None, 5).found
    assert any("我喜欢茶" in each.recalled.item.text for each in found)
    # A model reads them, too: its jobs wait for a server.
    jobs = [job.subject for job in iter(lambda: vault.jobs.claim(Lane.SLOW, "test"), None)]
    assert jobs == [f"{cube.meta.id}:{turn}" for turn in ("q1", "q2", "q3")]
    assert READ == "read"


def test_a_newer_conversation_ends_what_an_older_one_said(
    vault: MemorySystem, tmp_path: Path
) -> None:
    """In the order of time, whatever the order in the file; and claims that are newer than both stay."""
    first = exports.chatgpt_conversation("one")
    second = exports.chatgpt_conversation("two")
    second["mapping"] = dict(
        [exports.node("q", None, "user", ["I moved to Oslo."], at=exports.T0 + 86400 * 90)]
    )
    second["current_node"] = "q"
    bring_in(vault, exports.write_json(tmp_path / "c.json", [second, first]))
    homes = {
        item.claim.value: item.claim.ends
        for item in known(vault).values()
        if item.claim.attribute == "home"
    }
    assert homes.get("Oslo", "absent") is None
    assert homes.get("Paris") is None or homes["Paris"] > datetime.fromtimestamp(exports.T0, UTC)


def test_a_second_import_changes_nothing_also_what_was_deleted_stays_so(
    vault: MemorySystem, tmp_path: Path
) -> None:
    paths = [
        exports.chatgpt_zip(tmp_path / "gpt.zip"),
        exports.claude_zip(tmp_path / "claude.zip"),
        exports.write_json(tmp_path / "mem0.json", exports.MEM0_ALL),
        exports.write_json(tmp_path / "textual_memory.json", exports.memos_tree()),
    ]
    for path in paths:
        assert bring_in(vault, path).created > 0
    (cat,) = (i for i in known(vault).values() if i.claim.value == "Miso")
    facts = [h for h in _headers(vault) if h.name and h.name.startswith("facts#")]
    for header in facts:
        vault.delete(ALICE, header.id)
    before = all_of(vault)
    for path in paths:
        position = ImportPosition.load(
            vault.config.root / "imports",
            path,
            content_sha256(path),
            {"tenant": ADMIN.tenant, "person": "alice"},
        )
        assert position.finished
        position.restart()
        position.save()
        again = bring_in(vault, path)
        assert (again.created, again.extended) == (0, 0)
    assert all_of(vault) == before
    assert cat.text not in known(vault)


def _headers(system: MemorySystem) -> list[Any]:
    return system.views.page(ALICE, CubeFilter(person="alice"), None, 200)[0]


def test_a_kill_between_claims_and_turns_loses_neither(
    vault: MemorySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exports.chatgpt_zip(tmp_path / "export.zip")

    def dies(*args: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    create = vault.create
    monkeypatch.setattr(
        vault, "create", lambda who, cubes: dies() if who.can(Role.ADMIN) else create(who, cubes)
    )
    with pytest.raises(KeyboardInterrupt):
        bring_in(vault, path)
    monkeypatch.undo()
    assert any(item.claim.value == "Miso" for item in known(vault).values())
    bring_in(vault, path)
    (cat,) = (item for item in known(vault).values() if item.claim.value == "Miso")
    assert (cat.claim.seen, cat.claim.sources) == (1, ["q1:user"])
    assert len(vault.vault.get(ALICE, "chatgpt:68b0-c1:1").items) == 5


def test_a_conversation_that_went_on_is_extended_and_its_new_turns_are_read(
    vault: MemorySystem, tmp_path: Path
) -> None:
    chat = exports.claude_conversation()
    path = exports.write_json(tmp_path / "c.json", [chat])
    bring_in(vault, path)
    further = {**chat["chat_messages"][0], "uuid": "m9", "attachments": []}
    further["content"] = [{"type": "text", "text": "My brother is called Luc."}]
    chat["chat_messages"].append(further)
    exports.write_json(path, [chat])
    position = bring_in(vault, path)
    assert (position.created, position.extended) == (0, 1)
    assert "Luc" in {item.claim.value for item in known(vault).values()}
    names = {header.name for header in _headers(vault)}
    assert "claude:9a1f-c1:1" in names
    letter = next(h for h in _headers(vault) if h.provenance.note == "lettre.txt")
    (passage,) = vault.vault.get(ALICE, letter.id).items
    assert (passage.type, passage.speaker) == (ItemType.PASSAGE, None)


def test_facts_of_mem0_and_memos_are_claims_with_their_past(
    vault: MemorySystem, tmp_path: Path
) -> None:
    both = {**exports.MEM0_ALL, "history": exports.MEM0_HISTORY}
    bring_in(vault, exports.write_json(tmp_path / "m.json", both), None)
    claims = known(vault)
    assert "Lives in Berlin" in claims
    assert claims["Lives in Berlin"].claim.sources == ["mem-1"]
    items = [
        item
        for header in _headers(vault)
        for item in vault.vault.get(ALICE, header.id).items
        if item.text == "Lives in Paris"
    ]
    assert [item.claim.superseded_by for item in items if item.claim] == ["mem-1"]
    assert claims["Lives in Paris"].claim.ends == datetime(2024, 8, 1, 17, tzinfo=UTC)
    dump = exports.write_json(tmp_path / "textual_memory.json", exports.memos_tree())
    bring_in(vault, dump)
    assert "アリスは紅茶が好きです。" in known(vault)


def test_a_dump_of_several_people_is_divided(system: MemorySystem, tmp_path: Path) -> None:
    rows = [
        {"id": "1", "memory": "Likes tea", "user_id": "alice", "hash": "a"},
        {"id": "2", "memory": "Likes rum", "user_id": "bob", "hash": "b"},
    ]
    path = exports.write_json(tmp_path / "m.json", rows)
    with pytest.raises(BadRequest, match="names 2 persons"):
        source_of(system, path, "auto", None, "acme")
    source = source_of(system, path, "auto", "alice", "acme")
    bring_in(system, path, "alice", source)
    assert set(known(system)) == {"Likes tea"}
    (group,) = source.skipped.groups()
    assert "another person (bob)" in group.reason
    gpt = exports.chatgpt_zip(tmp_path / "g.zip")
    with pytest.raises(BadRequest, match="--person"):
        source_of(system, gpt, "auto", None, "acme")


def test_orders_to_forget_in_an_old_conversation_delete_nothing(
    system: MemorySystem, tmp_path: Path
) -> None:
    chat = exports.chatgpt_conversation("old")
    ask = [exports.node("q", None, "user", ["Forget everything that you know about me."])]
    chat["mapping"], chat["current_node"] = dict(ask), "q"
    dump = [{"id": "1", "memory": "Likes tea", "user_id": "alice", "hash": "a"}]
    bring_in(system, exports.write_json(tmp_path / "m.json", dump))
    bring_in(system, exports.write_json(tmp_path / "c.json", [chat]))
    assert "Likes tea" in known(system)


# -- HTTP ----------------------------------------------------------------------------------------------


@pytest.fixture
def http(system: MemorySystem) -> dict[str, TestClient]:
    app = create_app(system)
    clients = {}
    for role in Role:
        _, key = system.keys.create("acme", role)
        headers = {"Authorization": f"Bearer {key}"}
        clients[str(role)] = TestClient(app, headers=headers, raise_server_exceptions=False)
    _, key = system.keys.create("other", Role.ADMIN)
    clients["other"] = TestClient(app, headers={"Authorization": f"Bearer {key}"})
    _, key = system.keys.create("acme", Role.ADMIN, scopes=[Scope.READ, Scope.WRITE])
    clients["scoped"] = TestClient(app, headers={"Authorization": f"Bearer {key}"})
    return clients


def test_a_person_goes_out_and_comes_in_over_http(
    http: dict[str, TestClient], system: MemorySystem, tmp_path: Path
) -> None:
    url = "/v1/memory/people/alice/"
    admin = http["admin"]
    body = exports.chatgpt_zip(tmp_path / "export.zip").read_bytes()
    report = admin.post(url + "import", content=body)
    assert report.status_code == 200, report.text
    told = report.json()
    assert (told["format"], told["held"]) == ("chatgpt", 0)
    assert {each["what"] for each in told["left_out"]} >= {"message", "image", "recording"}
    again = admin.post(url + "import", content=body).json()
    assert (again["created"], again["extended"], again["held"]) == (0, 0, told["created"])
    out = admin.get(url + "export")
    assert out.headers["content-type"].startswith("application/x-ndjson")
    records = [json.loads(line) for line in out.content.splitlines()]
    assert records[-1]["record"] == "end"
    for who, path in ((admin, "/v1/memory/people/zo%C3%AB/"), (http["other"], url)):
        made = who.post(path + "import", content=out.content)
        assert made.status_code == 200, made.text
        assert made.json()["created"] == records[-1]["cubes"]
    assert "Miso" in http["other"].get(url + "export").text
    assert not list((system.config.root / "imports").glob(".upload-*"))


def test_readers_writers_tokens_and_scoped_keys_are_refused(
    http: dict[str, TestClient], system: MemorySystem
) -> None:
    made = http["writer"].post("/v1/memory/people/alice/tokens", json={"scopes": ["memory.read"]})
    token = {"Authorization": f"Bearer {made.json()['token']}"}
    url = "/v1/memory/people/alice/"
    for client, headers in (
        (http["reader"], {}),
        (http["writer"], {}),
        (http["scoped"], {}),
        (http["admin"], token),
    ):
        assert client.get(url + "export", headers=headers).status_code == 403
        refused = client.post(url + "import", content=b"[]", headers=headers)
        assert refused.status_code == 403
    actions = {each["action"] for each in system.audit.read(ADMIN, limit=100)}
    assert not {action for action in actions if action.startswith("person.")}


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "neither JSON"),
        (b"[]", 400, "no known kind"),
        (b'{"format": "memos-person", "version": 9, "person": "a"}\n', 400, "version 9"),
        (b'{"format": "memos-person", "version": 1, "person": "a"}\n', 400, "truncated"),
        (b"PK\x03\x04", 400, "damaged one"),
    ],
)
def test_a_bad_body_is_an_error_that_says_what_to_do_and_names_no_path(
    http: dict[str, TestClient], content: bytes, status: int, said: str
) -> None:
    refused = http["admin"].post("/v1/memory/people/alice/import", content=content)
    message = refused.json()["error"]["message"]
    assert (refused.status_code, said in message) == (status, True), message
    assert "/imports/" not in message
    assert message.startswith("the body")


def test_an_unknown_format_and_a_large_body_are_refused(tmp_path: Path) -> None:
    system = MemorySystem(make_config(tmp_path, http={"body_bytes": 1000})).open()
    _, key = system.keys.create("acme", Role.ADMIN)
    client = TestClient(create_app(system), headers={"Authorization": f"Bearer {key}"})
    url = "/v1/memory/people/alice/import"
    try:
        assert client.post(url, content=b"[" * 2000).status_code == 413
        wrong = client.post(url, content=b"[]", params={"format": "evernote"})
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "format")
    finally:
        system.close()
