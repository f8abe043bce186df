"""Forgetting in a person's memory: sentence by sentence, told, undone for a while, then gone."""

from __future__ import annotations

import asyncio
import dataclasses
import time

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    State,
)
from memos_vllm.errors import NotFound, VaultUnavailable
from memos_vllm.governance.principal import EVERY_PERSONA, Role
from memos_vllm.learning.feedback import Feedback
from memos_vllm.learning.put_back import put_back
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.forgetting import read_orders
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.system import MemorySystem
from memos_vllm.vault.jobs import REMEMBER, Lane
from memos_vllm.vault.views import CubeFilter
from tests.conftest import FakeQueue, make_config, principal
from tests.unit.conftest import ALICE

LONG = (
    "I am allergic to penicillin. My son is allergic to penicillin, too. My sister lives in Rome. "
    "The deadline of the tax return is on Friday."
)
REPLY = "Noted: you are allergic to penicillin. Rome is a lovely city to visit. Shall I remind you of Friday?"


@pytest.fixture
def feedback(system):
    return Feedback(system)


@pytest.fixture
def rememberer(system):
    return Rememberer(system, FakeQueue(system.jobs, system.config.jobs))


def texts(system, who=ALICE):
    everyone = who.in_persona(EVERY_PERSONA)
    headers, _ = system.views.page(everyone, CubeFilter(person=who.person))
    return [item.text for each in headers for item in system.vault.get(everyone, each.id).items]


def ordered(rememberer, text):
    found = read_orders(text)
    return asyncio.run(rememberer.ordered(ALICE, found.orders))


def purge_jobs(system):
    with system.database.read() as session:
        rows = session.connection().exec_driver_sql("SELECT subject FROM jobs WHERE name = 'purge'")
        return [row[0] for row in rows]


def test_of_a_long_turn_only_the_sentences_of_that_subject_go(system, chat):
    chat(LONG, reply=REPLY)
    chat("The Coffee app is launched on Monday.")
    chat("Forget that I am allergic to penicillin.")
    left = texts(system)
    assert (
        "My son is allergic to penicillin, too. My sister lives in Rome. "
        "The deadline of the tax return is on Friday."
    ) in left
    assert "Rome is a lovely city to visit. Shall I remind you of Friday?" in left
    assert "The Coffee app is launched on Monday." in left
    assert not any("alice is allergic" in text or "you are allergic" in text for text in left)


def test_a_cut_item_keeps_its_source_time_and_session_and_its_place(system, chat):
    chat(LONG, reply=REPLY)
    before = system.vault.get(ALICE, "chat-s#1")
    chat("Forget that I am allergic to penicillin.")
    after = system.vault.get(ALICE, "chat-s#1")
    facts = [(item.source, item.time, item.session, item.speaker) for item in after.items]
    assert facts == [(i.source, i.time, i.session, i.speaker) for i in before.items]
    assert after.meta.parent == before.meta.version
    assert after.meta.provenance.origin == "feedback"
    found = system.search(ALICE, "penicillin", None, 5).found
    assert all("I am allergic" not in each.recalled.item.text for each in found)


def test_clauses_of_one_sentence_are_told_apart(system, chat):
    chat("I am allergic to penicillin and my sister lives in Rome.")
    chat("Forget that I am allergic to penicillin")
    assert "My sister lives in Rome." in texts(system)


def test_a_topic_of_one_word_does_not_take_names_with_it(system, chat):
    chat("I drink a lot of coffee.")
    chat("The launch of the Coffee app is on 3 May.", reply="Good luck with the launch!")
    chat("Forget coffee!")
    assert texts(system) == [
        "The launch of the Coffee app is on 3 May.",
        "Good luck with the launch!",
    ]


def test_another_language_is_cut_likewise(system, chat):
    chat(
        "Ich bin gegen Penizillin allergisch. Mein Sohn ist gegen Penizillin allergisch.",
        reply="Gut.",
    )
    chat("Vergiss bitte, dass ich gegen Penizillin allergisch bin.")
    assert "Mein Sohn ist gegen Penizillin allergisch." in texts(system)
    assert not any("Ich bin" in text for text in texts(system))


@pytest.mark.parametrize(
    "order", ["Forget everything you know about me.", "delete my data", "忘记关于我的一切"]
)
def test_a_wide_order_takes_all_of_the_person_and_nothing_of_others(system, chat, order):
    chat("I live in Paris.")
    chat("I like tea.", dataclasses.replace(ALICE, persona="nurse"))
    chat("I live in Paris.", principal("bob"))
    system.create(principal("", role=Role.ADMIN), [NewCube(meta=NewMeta(name="house", shared=True), payload=ExplicitPayload(content="No smoking."))])  # fmt: skip
    bob = texts(system, principal("bob"))
    chat(order)
    assert texts(system) == []
    assert texts(system, principal("bob")) == bob
    assert system.vault.get(ALICE, "house").items


def test_an_archived_cube_loses_it_too_and_keeps_its_state(system, chat):
    chat("I live in Paris.")
    cube = system.vault.get(ALICE, "chat-s#1").meta.id
    system.update(ALICE, cube, CubePatch(state=State.ARCHIVED))
    done = Feedback(system).say(ALICE, "Forget that I live in Paris")
    after = system.vault.get(ALICE, cube)
    assert (after.items, after.meta.state) == ([], State.ARCHIVED)
    Feedback(system).undo(ALICE, done.undo)
    after = system.vault.get(ALICE, cube)
    assert (len(after.items), after.meta.state) == (2, State.ARCHIVED)


def test_the_order_is_not_stored_and_the_rest_of_the_message_is(system, chat):
    chat("I live in Paris.")
    chat(
        "Forget that I live in Paris. I live in Paris no more! My brother plays chess.",
        reply="I forgot Paris.",
    )
    assert "My brother plays chess." in " ".join(texts(system))
    assert not any("Forget" in text or "forgot" in text for text in texts(system))


def test_undo_restores_exactly_what_went_also_beside_later_turns(system, chat, feedback):
    chat(LONG, reply=REPLY)
    before = system.vault.get(ALICE, "chat-s#1").items
    claims = {each.item.text for each in system.knowledge.claims(ALICE)}
    done = feedback.say(ALICE, "Forget that I am allergic to penicillin")
    assert done.undo
    assert done.undo_until is not None
    chat("Later I bought a bicycle.")
    restored = feedback.undo(ALICE, done.undo)
    assert {each.action for each in restored.changes} == {"undo"}
    after = system.vault.get(ALICE, "chat-s#1").items
    assert after[: len(before)] == before
    assert [item.text for item in after[len(before) :]] == ["Later I bought a bicycle.", "I see."]
    assert {each.item.text for each in system.knowledge.claims(ALICE)} == claims
    found = system.search(ALICE, "penicillin", None, 5).found
    assert LONG in [each.recalled.item.text for each in found]
    with pytest.raises(NotFound):
        feedback.undo(ALICE, done.undo)
    actions = [
        row["action"] for row in system.audit.read(principal("", role=Role.ADMIN), limit=1000)
    ]
    assert "memory.forget" in actions
    assert "memory.undo" in actions
    assert system.audit.verify(principal("", role=Role.ADMIN)) == []


def test_undo_is_for_the_person_who_forgot(system, chat, feedback):
    chat("I live in Paris.")
    done = feedback.say(ALICE, "Forget that I live in Paris")
    for other in (principal("bob"), principal("alice", tenant="globex")):
        with pytest.raises(NotFound):
            feedback.undo(other, done.undo)
    assert feedback.undo(ALICE, done.undo).changes


def test_after_its_time_the_old_text_is_gone_from_versions_and_files(tmp_path):
    system = MemorySystem(make_config(tmp_path, remember={"undo_seconds": 0.0})).open()
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
    body = turn_body(
        [{"role": "user", "content": LONG}], REPLY, model="m", request_id="r", at_us=now_us()
    )
    rememberer.remember(rememberer.accept(ALICE, body))
    done = Feedback(system).say(ALICE, "Forget that I am allergic to penicillin")
    with pytest.raises(NotFound, match="its time is over"):
        Feedback(system).undo(ALICE, done.undo)
    for subject in purge_jobs(system):
        rememberer._forgetting.purge(subject)
        rememberer._forgetting.purge(subject)  # as after a kill
    everything = b"".join(file.read_bytes() for file in (tmp_path / "payloads").rglob("*.json"))
    assert b"I am allergic to penicillin" not in everything
    assert b"My sister lives in Rome" in everything
    cube = system.vault.get(ALICE, "chat-s#1")
    assert [each.id for each in system.vault.history(ALICE, cube.meta.id)] == [cube.meta.version]
    system.close()


def test_the_purge_waits_for_its_time_and_an_emptied_cube_is_deleted_then(system, chat, feedback):
    chat("I live in Paris.")
    feedback.say(ALICE, "Forget everything you know about me")
    assert purge_jobs(system)
    while (job := system.jobs.claim(Lane.FAST, "test")) is not None:
        assert job.name == REMEMBER, "nothing is purged before its time"
    for subject in purge_jobs(system):
        Rememberer(system, FakeQueue(system.jobs, system.config.jobs))._forgetting.purge(subject)
    with pytest.raises(NotFound):
        system.vault.get(ALICE, "chat-s#1")


def test_a_chat_is_told_what_went_without_its_text(system, chat, rememberer):
    chat(LONG, reply=REPLY)
    forgot = ordered(rememberer, "Forget that I am allergic to penicillin.")
    assert forgot is not None
    assert (forgot.done, forgot.all) == (True, False)
    assert forgot.count == forgot.matched == len(forgot.items) >= 2
    assert {each.part for each in forgot.items} == {"sentences", "whole"}
    assert "penicillin" not in forgot.model_dump_json()
    assert forgot.undo


def test_what_was_said_before_the_order_and_is_not_memory_yet_is_forgotten_too(system, rememberer):
    body = turn_body(
        [{"role": "user", "content": "I live in Paris."}],
        "Ok.",
        model="m",
        request_id="r",
        at_us=now_us(),
    )
    rememberer.accept(ALICE, body)
    forgot = ordered(rememberer, "Forget that I live in Paris.")
    assert forgot is not None
    assert forgot.count
    assert texts(system) == []


def test_an_order_that_runs_late_spares_what_was_said_after_it(system, chat, rememberer):
    chat("I live in Paris.")
    body = turn_body(
        [{"role": "user", "content": "Forget me"}], "Ok.", model="m", request_id="r", at_us=now_us()
    )
    time.sleep(0.01)
    chat("I live in Rome.")
    rememberer.remember(rememberer.accept(ALICE, body))
    assert any("Rome" in text for text in texts(system))
    assert not any("I live in Paris" in text for text in texts(system))


def test_more_than_fifty_matches_are_shown_first_and_need_a_confirmation(
    system, feedback, rememberer
):
    items = [
        Item(type=ItemType.EPISODE, text=f"My sister has {n} cats.", speaker="alice")
        for n in range(60)
    ]
    system.create(ALICE, [NewCube(payload=ExplicitPayload(content=items))])
    forgot = ordered(rememberer, "Forget about my sister.")
    assert forgot is not None
    assert (forgot.count, forgot.matched, forgot.done) == (0, 60, False)
    assert len(feedback.say(ALICE, "Forget about my sister.", dry_run=True).changes) == 60
    assert len(texts(system)) == 60
    assert len(feedback.say(ALICE, "Forget about my sister.", confirmed=True).changes) == 60
    assert texts(system) == []


def test_without_an_embedder_whole_matches_are_forgotten(system, chat, monkeypatch):
    chat("I am allergic to penicillin. I can walk to the penicillin museum.")

    def fails(texts):
        from memos_vllm.errors import EmbedderUnavailable

        raise EmbedderUnavailable("no model")

    monkeypatch.setattr(system.embedder, "embed", fails)
    changes = Feedback(system).say(ALICE, "Forget that I am allergic to penicillin").changes
    assert changes
    assert any("museum" in text for text in texts(system))


def test_while_the_vault_does_not_answer_the_turns_job_does_it(
    system, chat, rememberer, monkeypatch
):
    chat("I live in Paris.")

    def fails(principal):
        raise VaultUnavailable("locked")

    with monkeypatch.context() as patched:
        patched.setattr(system.turns, "waiting_of", fails)
        assert ordered(rememberer, "Forget that I live in Paris.") is None
    chat("Forget that I live in Paris.")
    assert texts(system) == []


def test_put_back_leaves_away_what_a_later_order_took():
    def item(ident, text, source):
        return Item(id=ident, type=ItemType.EPISODE, text=text, source=source)

    one, cut, two = item("a", "x. y.", "s"), item("b", "y.", "s"), item("c", "z.", "t")
    assert put_back([one, two], [cut, two], [cut, two]) == ([one, two], [one])
    assert put_back([one, two], [cut, two], [two]) == ([two], [])
    assert put_back([one, two], [two], [two, cut]) == ([one, two, cut], [one])


def test_undo_over_http(system, chat):
    chat("I live in Paris.")
    http = TestClient(create_app(system))
    http.headers = {
        "Authorization": f"Bearer {system.keys.create('acme', Role.WRITER)[1]}",
        "X-Memos-User": "alice",
    }
    reply = http.post("/v1/memory/feedback", json={"text": "Forget that I live in Paris"}).json()
    assert reply["undo"].startswith("undo_")
    assert reply["undo_until"]
    undone = http.post("/v1/memory/feedback", json={"undo": reply["undo"]})
    assert undone.status_code == 200, undone.text
    assert {each["action"] for each in undone.json()["did"]} == {"undo"}
    assert "I live in Paris." in texts(system)
    again = http.post("/v1/memory/feedback", json={"undo": reply["undo"]})
    assert again.status_code == 404
    assert http.post("/v1/memory/feedback", json={"undo": "x", "text": "y"}).status_code == 400
