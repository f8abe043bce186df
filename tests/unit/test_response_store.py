"""State of `/v1/responses` in the vault: owners, chains, deletions; on SQLite and Postgres."""

from __future__ import annotations

import dataclasses
import threading

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import Role
from memos_vllm.learning.feedback import Feedback
from memos_vllm.learning.forget import Forgetting
from memos_vllm.learning.remember import Rememberer
from memos_vllm.system import MemorySystem
from memos_vllm.vault.listing import every
from memos_vllm.vault.responses import ResponseStore, StoredResponse
from memos_vllm.vault.views import CubeFilter
from tests.conftest import FakeQueue, make_config, principal


@pytest.fixture
def vault(tmp_path, database_url):
    opened = MemorySystem(make_config(tmp_path, database={"url": database_url})).open()
    yield opened
    opened.close()


@pytest.fixture
def store(vault) -> ResponseStore:
    return ResponseStore(vault.database, 30, vault.redactors)


def said(text: str, role: str = "user") -> dict:
    return {"role": role, "content": text}


def reply(name: str, text: str, previous: str | None = None, conversation: str | None = None):
    part = {"type": "output_text", "text": f"{text}!", "annotations": []}
    output = [{"type": "message", "role": "assistant", "id": f"m-{name}", "content": [part]}]
    return StoredResponse(
        f"resp_{name}",
        conversation,
        previous,
        [said(text)],
        {"id": f"resp_{name}", "output": output},
    )


def texts(items) -> list[str]:
    return [
        item["content"] if isinstance(item["content"], str) else item["content"][0]["text"]
        for item in items
    ]


def test_a_chain_is_its_replies_in_order_and_branches(store):
    alice = principal()
    for stored in (
        reply("1", "one"),
        reply("2", "two", "resp_1"),
        reply("3", "three", "resp_2"),
        reply("4", "other", "resp_1"),
    ):
        assert store.put(alice, stored)
    assert texts(store.history(alice, "resp_3")) == [
        *("one", "one!", "two", "two!", "three", "three!")
    ]
    assert texts(store.history(alice, "resp_4")) == ["one", "one!", "other", "other!"]
    store.delete(alice, "resp_2")
    assert texts(store.history(alice, "resp_3")) == ["one", "one!", "three", "three!"]
    store.delete(alice, "resp_1")
    assert texts(store.history(alice, "resp_3")) == ["three", "three!"]
    with pytest.raises(NotFound):
        store.get(alice, "resp_1")


def test_what_belongs_to_another_is_not_found_and_not_continued(store):
    alice = principal()
    keyless = dataclasses.replace(principal(""), key_id="k1")
    store.put(alice, reply("1", "one"))
    store.put(keyless, reply("k", "key"))
    made = store.create(alice, {"a": "b"}, [said("begin")])
    others = (principal("bob"), principal(tenant="globex"), keyless, principal("alice", "globex"))
    for other in others:
        for action in (store.get, store.history, store.delete):
            with pytest.raises(NotFound):
                action(other, "resp_1")
        for action in (store.conversation, store.items, store.delete_conversation):
            with pytest.raises(NotFound):
                action(other, made.id)
        assert store.put(other, reply(f"x-{id(other)}", "x", None, made.id)) is False
    with pytest.raises(NotFound):
        store.get(dataclasses.replace(keyless, key_id="k2"), "resp_k")
    # A forged pointer to another's reply leads nowhere.
    store.put(principal("bob"), reply("b", "bob", "resp_1"))
    assert texts(store.history(principal("bob"), "resp_b")) == ["bob", "bob!"]


def test_a_conversation_holds_its_replies_and_goes_with_them(store):
    alice = principal()
    made = store.create(alice, {}, [said("begin")])
    for name in ("1", "2"):
        assert store.put(alice, reply(name, name, None, made.id))
    assert texts(store.items(alice, made.id)) == ["begin", "1", "1!", "2", "2!"]
    assert sorted(store.replies(alice, made.id)) == ["resp_1", "resp_2"]
    store.delete_conversation(alice, made.id)
    with pytest.raises(NotFound):
        store.get(alice, "resp_1")
    assert store.put(alice, reply("3", "late", None, made.id)) is False


def test_a_reply_that_arrives_while_its_conversation_is_deleted_does_not_outlive_it(store):
    alice = principal()
    for _ in range(8):
        made = store.create(alice, {}, [])
        name = made.id[-8:]
        gate = threading.Barrier(2)

        def late(name=name, made=made, gate=gate):
            gate.wait()
            store.put(alice, reply(name, "late", None, made.id))

        thread = threading.Thread(target=late)
        thread.start()
        gate.wait()
        store.delete_conversation(alice, made.id)
        thread.join()
        with pytest.raises(NotFound):
            store.get(alice, f"resp_{name}")


def test_replies_expire_and_conversations_do_not(vault, store):
    alice = principal()
    brief = ResponseStore(vault.database, 1e-9, vault.redactors)
    made = brief.create(alice, {}, [])
    brief.put(alice, reply("1", "one"))
    brief.put(alice, reply("2", "two", None, made.id))
    with pytest.raises(NotFound):
        brief.get(alice, "resp_1")
    assert texts(brief.items(alice, made.id)) == ["two", "two!"]
    ResponseStore(vault.database, 30, vault.redactors).put(alice, reply("3", "three"))
    with vault.database.read() as session:
        from memos_vllm.vault.response_tables import ResponseRow

        assert session.get(ResponseRow, "resp_1") is None  # its row is deleted, too


def test_secrets_are_taken_out_of_texts_and_of_nothing_else(store):
    secret = "sk-proj-" + "a1B2c3D4e5" * 4
    alice = principal()
    stored = reply("1", f"My key is {secret}")
    stored.input.append({"type": "function_call", "call_id": "c", "name": "f", "arguments": secret})
    store.put(alice, stored)
    found = store.get(alice, "resp_1")
    assert secret not in str(found)
    assert found.input[1]["call_id"] == "c"
    assert found.response["id"] == "resp_1"
    made = store.create(alice, {"topic": f"about {secret}", "count": "2"}, [])
    metadata = store.conversation(alice, made.id).metadata
    assert secret not in str(metadata)
    assert metadata["count"] == "2"


@pytest.mark.parametrize(
    "text", ["nul \x00 inside", "\ud83d alone", "\U0001f600 and \u202e", "x" * 300_000]
)
def test_any_text_is_stored_and_read(store, text):
    alice = principal()
    store.put(alice, reply("1", text))
    assert texts(store.history(alice, "resp_1"))[0] == text


def turn(request_id: str, text: str) -> dict:
    return {
        "user": text,
        "reply": "Fine.",
        "position": 0,
        "model": "demo",
        "request_id": request_id,
        "at_us": 1_790_000_000_000_000,
        "prompt_sha256": "0" * 64,
    }


def test_a_deleted_reply_takes_its_turn_and_claims_along_and_no_others(system):
    alice = principal()
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    for request_id, text in (
        ("resp_1", "My name is Alice and I live in Lisbon."),
        ("resp_10", "I work as a welder."),
    ):
        rememberer.remember(rememberer.accept(alice, turn(request_id, text)))
    waiting = rememberer.accept(alice, turn("resp_1", "I live in Lisbon, really."))
    store = ResponseStore(system.database, 30, system.redactors)
    store.put(alice, reply("1", "one"))
    outcome = Forgetting(system).requests(alice, ["resp_1"])
    assert len(outcome.removals) >= 2
    assert system.turns.get(waiting) is None
    left = " ".join(
        item.text
        for header in every(system.views, alice, CubeFilter())
        for item in system.vault.get(alice, header.id).items
    )
    assert "Lisbon" not in left
    assert "welder" in left


def test_routes_need_a_writer_and_audit_deletions(system):
    writer = system.keys.create("acme", Role.WRITER)[1]
    reader = system.keys.create("acme", Role.READER)[1]
    store = ResponseStore(system.database, 30, system.redactors)
    store.put(principal("ann"), reply("1", "one"))
    http = TestClient(create_app(system))

    def call(method, path, key, person="ann", **extra):
        headers = {"Authorization": f"Bearer {key}", "X-Memos-User": person}
        return http.request(method, path, headers=headers, **extra)

    assert call("GET", "/v1/responses/resp_1", reader).json()["id"] == "resp_1"
    assert call("DELETE", "/v1/responses/resp_1", reader).status_code == 403
    assert call("POST", "/v1/conversations", reader, json={}).status_code == 403
    assert call("DELETE", "/v1/responses/resp_1", writer, person="bob").status_code == 404
    gone = call("DELETE", "/v1/responses/resp_1?memory=true", writer)
    assert gone.json() == {
        "id": "resp_1",
        "object": "response",
        "deleted": True,
        "memory": {"count": 0, "undo": None},
    }
    assert call("DELETE", "/v1/responses/resp_1", writer).status_code == 404
    made = call("POST", "/v1/conversations", writer, json={"metadata": {"a": "b"}}).json()
    assert made["object"] == "conversation"
    assert call("DELETE", f"/v1/conversations/{made['id']}", writer).status_code == 200
    assert call("POST", "/v1/responses/resp_1/cancel", writer).status_code == 403
    admin = system.keys.create("acme", Role.ADMIN)[1]
    log = call("GET", "/v1/memory/audit?limit=50", admin).text
    assert "response.delete" in log
    assert "conversation.delete" in log


def test_an_order_to_forget_everything_takes_stored_replies_and_empties_conversations(vault, store):
    alice, bob = principal(), principal("bob")
    talks = {}
    for who in (alice, bob):
        talk = store.create(who, {"topic": "Paris"}, [said("I live in Paris.")]).id
        store.put(who, reply(f"{who.person}-1", "I live in Paris.", conversation=talk))
        store.put(who, reply(f"{who.person}-2", "I live in Paris."))
        talks[who.person] = talk
    feedback = Feedback(vault)
    feedback.say(alice, "Forget everything you know about me.", dry_run=True)
    assert store.get(alice, "resp_alice-1")
    for _ in range(2):
        feedback.say(alice, "Forget everything you know about me.")
        for name in ("resp_alice-1", "resp_alice-2"):
            with pytest.raises(NotFound):
                store.get(alice, name)
        assert store.items(alice, talks["alice"]) == []
        assert store.conversation(alice, talks["alice"]).metadata == {}
    assert store.get(bob, "resp_bob-2")
    assert len(store.items(bob, talks["bob"])) == 3
    later = reply("later", "I live in Rome.", "resp_alice-1", talks["alice"])
    assert store.put(alice, later), "the conversation in which the order was said goes on"
    assert texts(store.history(alice, "resp_later"))[0] == "I live in Rome."


def test_what_was_said_after_the_order_stays(vault, store):
    alice = principal()
    store.put(alice, reply("before", "I live in Paris."))
    until = to_datetime(now_us())
    store.put(alice, reply("after", "I live in Rome.", "resp_before"))
    vault.forgotten.forget_all_replies(alice, until)
    assert texts(store.history(alice, "resp_after"))[0] == "I live in Rome."
    with pytest.raises(NotFound):
        store.get(alice, "resp_before")


def test_what_is_forgotten_leaves_stored_replies_and_conversations_which_go_on(vault, store):
    alice, bob = principal(), principal("bob")
    secret = "I am allergic to penicillin."
    for who in (alice, bob):
        content = [Item(text=secret, speaker=who.person), Item(text="Yes.", speaker=who.person)]
        vault.create(who, [NewCube(payload=ExplicitPayload(content=content))])
        talk = store.create(who, {}, [said(f"Hello. {secret}")]).id
        store.put(who, reply(f"{who.person}-1", f"{secret} I like tea.", conversation=talk))
        store.put(who, reply(f"{who.person}-2", "Yes. Yesterday.", f"resp_{who.person}-1", talk))
    before = vault.quotas.stored(vault.database, "acme", "alice")
    Feedback(vault).say(alice, "Forget that I am allergic to penicillin.")
    kept = texts(store.history(alice, "resp_alice-2"))
    assert kept[0] == "[forgotten] I like tea."
    assert not any("penicillin" in text for text in kept)
    assert "Yes. Yesterday." in kept
    with vault.database.read() as session:
        rows = session.execute(sa.text("SELECT person, input, response FROM responses")).all()
        rows += session.execute(sa.text("SELECT person, items FROM conversations")).all()
    assert {row[0] for row in rows if "penicillin" in str(row)} == {"bob"}
    after = vault.quotas.stored(vault.database, "acme", "alice")
    assert after.responses == before.responses
    assert after.response_bytes < before.response_bytes


def test_a_short_text_is_forgotten_only_where_it_stands_alone(vault, store):
    alice = principal()
    content = [Item(text="Yes.", speaker="alice", source="r-1:0")]
    vault.create(alice, [NewCube(payload=ExplicitPayload(content=content))])
    store.put(alice, reply("1", "Yes."))
    store.put(alice, reply("2", "Yes. I like tea.", "resp_1"))
    assert Forgetting(vault).requests(alice, ["r-1"]).removals
    kept = texts(store.history(alice, "resp_2"))
    assert "[forgotten]" in kept
    assert "Yes. I like tea." in kept
