"""Redaction: personal data in both directions, policies of tenants, and every way into memory."""

from __future__ import annotations

import json
import string
import uuid
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.api.app import create_app
from memos_vllm.cli.vault import administrator
from memos_vllm.config.redaction import RedactionConfig, RedactionPolicy
from memos_vllm.cube.model import (
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
)
from memos_vllm.engine.kv_plan.orders import writes_of
from memos_vllm.governance.principal import Role
from memos_vllm.governance.redaction import personal
from memos_vllm.governance.redaction.redactor import Redactor, Redactors
from memos_vllm.importers.jsonl import jsonl_source
from memos_vllm.importers.position import ImportPosition
from memos_vllm.importers.write import run_import
from memos_vllm.learning.redact_stored import redact_stored
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat
from tests.conftest import freeze

EVERYTHING = Redactor(RedactionPolicy(kinds=("secrets", "email", "phone", "national id")))
CARD = "4111 1111 1111 1111"


@pytest.mark.parametrize(
    ("text", "found", "label"),
    [
        ("Write to ann.lee+news@mail.example.co.uk, please.", "ann.lee+news@mail.example.co.uk", "e-mail address"),
        ("müller@bücher.example is my address", "müller@bücher.example", "e-mail address"),
        ("Call +49 170 1234567.", "+49 170 1234567", "phone number"),
        ("0044 20 7946 0958 is the office", "0044 20 7946 0958", "phone number"),
        ("(415) 555-2671 or later", "(415) 555-2671", "phone number"),
        ("415-555-2671", "415-555-2671", "phone number"),
        ("my phone: 030 1234567", "030 1234567", "phone number"),
        ("Meine Handynummer ist 0170/1234567", "0170/1234567", "phone number"),
        ("电话 13800138000", "13800138000", "phone number"),
        ("CPF 529.982.247-25", "529.982.247-25", "national id"),
        ("my cpf is 52998224725", "52998224725", "national id"),
        ("DNI: 12345678Z", "12345678Z", "national id"),
        ("NIE X1234567L", "X1234567L", "national id"),
        ("Steuer-ID 86 095 742 719", "86 095 742 719", "national id"),
        ("NIR 2 55 08 14 168 025 38", "2 55 08 14 168 025 38", "national id"),
        ("codice RSSMRA85T10A562S", "RSSMRA85T10A562S", "national id"),
        ("BSN 111222333", "111222333", "national id"),
        ("PESEL 44051401359", "44051401359", "national id"),
        ("身份证 11010519491231002X", "11010519491231002X", "national id"),
        ("Aadhaar 2341 2341 2346", "2341 2341 2346", "national id"),
        ("NHS number 943 476 5919", "943 476 5919", "national id"),
    ],
)  # fmt: skip
def test_personal_data_is_replaced_by_its_kind(text: str, found: str, label: str) -> None:
    redacted = EVERYTHING.text(text)
    assert found not in redacted.text
    assert f"[{label} removed]" in redacted.text
    assert EVERYTHING.text(redacted.text).count == 0, "idempotent"
    assert EVERYTHING.holds_any(text)
    assert Redactor(RedactionPolicy()).text(text).count == 0, "no secret"


@pytest.mark.parametrize(
    "text",
    [
        "ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2",
        "Order 529982247 of 2024-11-29, invoice 20241129-0042.",
        "Version 10.0.19045.5131, build 2024.11.29.1234",
        "From 2019 to 2024, 12:30 to 14:45, on 05/07/2023.",
        "192.168.100.200:8080 and 2001:db8::8a2e:370:7334",
        "3f2b8c1e-9a4d-4e6f-8b7a-1c2d3e4f5a6b",
        "commit 9f288b6c0ffee1234567890abcdef1234567890a",
        "It costs 1,234,567.89 or 1.234.567,89.",
        "Coordinates 52.520008, 13.404954",
        "@ann met @bob @ noon; see user@localhost",
        "The score was 110-105-98 after 415 games.",
        "a 12345678 b 12345678A in the text",
        "The model X1234567A has 300 parts.",
        "EAN 4006381333931, tracking 00340434161094042557",
        "pip install memos-vllm==0.1.0 at 3.11.7-1",
    ],
)
def test_other_texts_are_left_alone(text: str) -> None:
    assert EVERYTHING.text(text).text == text


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**11 - 1))
def test_a_bare_number_is_no_national_id(number: int) -> None:
    assert list(personal.national_ids(f"order {number:011d} is here")) == []


@settings(max_examples=100, deadline=None)
@given(st.uuids(version=4))
def test_a_uuid_is_nothing(value: uuid.UUID) -> None:
    assert EVERYTHING.text(f"id {value}.").count == 0


@pytest.mark.parametrize(
    ("check", "valid"),
    [
        (personal.is_cpf, "52998224725"),
        (personal.is_steuer_id, "86095742719"),
        (personal.is_bsn, "111222333"),
        (personal.is_pesel, "44051401359"),
        (personal.is_aadhaar, "234123412346"),
        (personal.is_nhs, "9434765919"),
    ],
)
def test_every_wrong_digit_is_seen(check, valid: str) -> None:
    assert check(valid)
    for position, digit in enumerate(valid):
        for other in string.digits:
            wrong = valid[:position] + other + valid[position + 1 :]
            assert check(wrong) == (other == digit), wrong


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_redacted_without_an_error_and_once(text: str) -> None:
    assert EVERYTHING.text(EVERYTHING.text(text).text).count == 0


def test_a_tenants_policy_goes_before_that_of_all() -> None:
    config = RedactionConfig.model_validate(
        {
            "mode": "mark",
            "tenants": {
                "clinic": {"mode": "remove", "kinds": ["secrets", "email"]},
                "lab": {"mode": "off"},
            },
        }
    )
    text = f"Pay {CARD} to a@b.example"
    redactors = Redactors(config)
    assert redactors.of("acme").text(text).text == "Pay [card number removed] to a@b.example"
    assert redactors.of("clinic").text(text).text == "Pay  to "
    assert redactors.of("lab").text(text).text == text


def test_a_claim_and_all_labels_of_an_item_are_redacted() -> None:
    claim = Claim(
        subject="Ann", attribute="card", value=CARD, entities=[CARD], sources=[f"m {CARD}"]
    )
    item = Redactor(RedactionPolicy()).item(
        Item(text=f"Ann's card is {CARD}", source=CARD, session=CARD, claim=claim)
    )
    assert CARD not in item.model_dump_json()


def test_an_item_of_nothing_else_keeps_a_text() -> None:
    assert Redactor(RedactionPolicy(mode="remove")).item(Item(text=CARD)).text == "[removed]"


# -- every way into memory --------------------------------------------------------------------------

SECRET = f"My card is {CARD} and my password is hunter22."
PARTS = (CARD, "hunter22")


def stored(system) -> str:
    """All text of the vault's rows and payload files."""
    with system.database.read() as session:
        rows = [
            str(tuple(row))
            for table in ("cubes", "versions", "items", "turns", "audit", "jobs")
            for row in session.connection().exec_driver_sql(
                f"select * from {_table(session, table)}"
            )
        ]
    files = [
        path.read_bytes().decode("utf-8", "replace")
        for path in Path(system.config.payload_url).rglob("*")
        if path.is_file()
    ]
    return "\n".join(rows + files)


def _table(session, like: str) -> str:
    names = session.connection().exec_driver_sql(
        "select name from sqlite_master where type='table'"
    )
    return next(name for (name,) in names if like in name)


def client(system, role: Role = Role.WRITER) -> TestClient:
    _, key = system.keys.create("acme", role)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    return TestClient(create_app(system), headers=headers)


def by_cube(system, tmp_path: Path) -> None:
    meta = {"name": f"n {CARD}", "tags": [CARD], "provenance": {"origin": "api", "note": SECRET}}
    reply = client(system).post(
        "/v1/memory/cubes", json={"meta": meta, "payload": {"type": "explicit", "content": SECRET}}
    )
    assert reply.status_code == 201
    assert CARD not in reply.text


def by_items(system, tmp_path: Path) -> None:
    http = client(system)
    cube = {"meta": {"name": "a"}, "payload": {"type": "explicit", "content": "Tea."}}
    assert http.post("/v1/memory/cubes", json=cube).status_code == 201
    claim = {"subject": "alice", "attribute": "card", "value": CARD}
    reply = http.patch(
        "/v1/memory/cubes/a",
        json={"append": [{"text": SECRET, "type": "fact", "claim": claim}]},
    )
    assert reply.status_code == 200, reply.text


def by_batch(system, tmp_path: Path) -> None:
    cube = {"payload": {"type": "explicit", "content": [{"text": SECRET}]}}
    assert client(system).post("/v1/memory/cubes/batch", json={"cubes": [cube]}).status_code == 201


def by_document(system, tmp_path: Path) -> None:
    html = f"<h1>{CARD}</h1><p>{SECRET}</p>"
    reply = client(system).post("/v1/memory/documents", files={"file": (f"{CARD}.html", html)})
    assert reply.status_code == 201


def by_import(system, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(json.dumps({"text": SECRET, "person": "alice", "session": "s"}))
    for again in range(2):  # the second time, nothing is missing
        source = jsonl_source(file, None, 10)
        position = ImportPosition(tmp_path / f"position{again}", str(file), str(again))
        run_import(system, administrator("acme"), source, position)
        assert position.extended == 0


WAYS = {
    "a cube": by_cube,
    "items and claims": by_items,
    "a batch": by_batch,
    "a document": by_document,
    "an import": by_import,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_gets_into_memory_by_no_way(system, tmp_path: Path, way: str) -> None:
    WAYS[way](system, tmp_path)
    text = stored(system)
    assert "removed]" in text
    for part in PARTS:
        assert part not in text


def stored_before_the_policy(system, name: str = "a"):
    """A cube as a server without redaction stored it."""
    off = Redactors(RedactionConfig(mode="off"))
    policy, system.redactors, system.vault._redactors = system.redactors, off, off
    meta = NewMeta(name=name, person="alice", tags=[CARD])
    new = NewCube(meta=meta, payload=ExplicitPayload(content=SECRET))
    made = system.create(administrator("acme", "alice"), [new])[0]
    system.redactors = system.vault._redactors = policy
    return made


def test_a_version_from_before_the_policy_comes_back_without_its_secret(tmp_path, system) -> None:
    alice = administrator("acme", "alice")
    old = stored_before_the_policy(system)
    patch = CubePatch(payload=ExplicitPayload(content="Tea."))
    system.update(alice, old.meta.id, patch)
    restored = system.rollback(alice, old.meta.id, old.meta.version)
    assert CARD not in restored.payload.model_dump_json()


def test_a_dry_run_names_what_is_stored_and_changes_nothing(system) -> None:
    cube = stored_before_the_policy(system)
    before = stored(system)
    (found,) = redact_stored(system, administrator("acme"), apply=False)
    assert (found.cube, found.person, found.done) == (cube.meta.id, "alice", False)
    assert found.kinds["card number"] >= 1
    assert CARD not in repr(found)
    assert stored(system) == before


def test_applying_it_makes_new_versions_and_erases_old_ones(system) -> None:
    admin = administrator("acme")
    cube = stored_before_the_policy(system)
    hidden = stored_before_the_policy(system, "b")  # only its older version holds the secret
    alice = administrator("acme", "alice")
    system.update(
        alice, hidden.meta.id, CubePatch(payload=ExplicitPayload(content="Tea."), tags=[])
    )
    assert all(found.done for found in redact_stored(system, admin, apply=True))
    text = stored(system)
    assert not any(part in text for part in PARTS)
    assert "[card number removed]" in system.vault.get(alice, cube.meta.id).items[0].text
    assert system.vault.get(alice, hidden.meta.id).items[0].text == "Tea."
    assert list(redact_stored(system, admin, apply=True)) == []


def test_a_frozen_cube_is_reported_and_not_changed(system) -> None:
    cube = stored_before_the_policy(system)
    freeze(system, cube.meta.id)
    (found,) = redact_stored(system, administrator("acme"), apply=True)
    assert (found.done, found.problem) == (False, "the cube is frozen")


def test_a_secret_at_the_border_of_two_passages_is_found(system) -> None:
    limit = system.config.limits.chunk_tokens
    for shift in range(0, 40, 5):
        text = "word " * (limit // 2) + "x" * shift + f" {CARD} " + "word " * limit
        new = NewCube(meta=NewMeta(person="alice"), payload=ExplicitPayload(content=text))
        system.create(administrator("acme", "alice"), [new])
    assert " 1111" not in stored(system)


CONVERSATIONS = [
    ([("system", "Be kind."), ("user", "Hello.")], (True, True)),
    ([("system", "Be kind."), ("user", SECRET)], (True, False)),
    ([("user", SECRET), ("assistant", "Ok."), ("user", "Thanks.")], (True, False)),
    ([("user", "Hi"), ("tool", SECRET)], (True, False)),
    ([("system", SECRET), ("user", "Hello.")], (False, False)),
]


@pytest.mark.parametrize(("said", "writes"), CONVERSATIONS)
def test_the_kv_of_a_prompt_with_a_secret_is_not_kept(said, writes) -> None:
    messages = [{"role": role, "content": text} for role, text in said]
    chat = Chat(administrator("acme", "alice"), MemoryOptions(), messages, "demo")
    chat.plan.written = True
    made = writes_of(chat, Redactor(RedactionPolicy()))
    assert (made.head, made.history) == writes


def test_a_secret_in_the_arguments_of_a_tool_is_seen() -> None:
    call = {"id": "1", "function": {"name": "login", "arguments": '{"password": "hunter22"}'}}
    messages = [
        {"role": "user", "content": "Log in."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    chat = Chat(administrator("acme", "alice"), MemoryOptions(), messages, "demo")
    chat.plan.written = True
    assert not writes_of(chat, Redactor(RedactionPolicy())).history


def test_what_held_nothing_is_not_looked_through_again():
    """A cube's items are stored again with each of its versions."""
    redactor, seen = Redactor(RedactionPolicy()), []
    finders = [
        (label, lambda text, find=find: (seen.append(text), find(text))[1])
        for label, find in redactor._finders
    ]
    redactor._finders = finders
    text = "The total of order 12 is 4111 euros, said Ann on Monday."
    assert redactor.text(text).text == text
    first = len(seen)
    assert first > 0
    assert redactor.text(text).text == text
    assert len(seen) == first
    for _ in range(2):
        assert CARD not in redactor.text(f"My card is {CARD}.").text
