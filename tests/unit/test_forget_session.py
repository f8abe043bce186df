"""Deleting a session, and adapters that learnt what was deleted."""

from __future__ import annotations

import dataclasses
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    NewCube,
    NewMeta,
    ParametricPayload,
    Provenance,
    State,
)
from memos_vllm.errors import NotFound
from memos_vllm.governance.principal import EVERY_PERSONA, Role
from memos_vllm.learning.feedback import Feedback
from memos_vllm.learning.forget import Forgetting
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.transforms import submit
from memos_vllm.transforms.requests import Distill
from memos_vllm.vault.jobs import PURGE
from memos_vllm.vault.responses import ResponseStore, StoredResponse
from memos_vllm.vault.transform_rows import JobState
from memos_vllm.vault.views import CubeFilter
from tests.adapters import small
from tests.conftest import FakeQueue, freeze, principal
from tests.unit.test_transforms import adapter, text

BOB = principal("bob")


@pytest.fixture
def say(system):
    rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))

    def said(who, session, words, remembered=True, request_id=None):
        number = now_us()
        body = turn_body(
            [{"role": "user", "content": words}],
            "I see.",
            model="demo",
            request_id=request_id or f"r{number}",
            at_us=number,
        )
        turn = rememberer.accept(dataclasses.replace(who, session=session), body)
        if remembered:
            rememberer.remember(turn)

    return said


def texts(system, who):
    everyone = who.in_persona(EVERY_PERSONA)
    headers, _ = system.views.page(everyone, CubeFilter(person=who.person))
    found = (system.vault.get(everyone, each.id) for each in headers)
    return {item.text for cube in found for item in cube.items}


def files_with(system, words):
    root = system.config.root / "payloads"
    return [path for path in root.rglob("*.json") if words.encode() in path.read_bytes()]


def purge(system):
    with system.database.read() as session:
        rows = session.connection().exec_driver_sql(
            f"SELECT subject FROM jobs WHERE name = '{PURGE}'"
        )
        subjects = [row[0] for row in rows]
    for subject in subjects:
        Forgetting(system).purge(subject)


@pytest.mark.parametrize("name", ["trip", "a b/c?d", "旅行"])
def test_a_session_goes_whole_with_claims_read_from_it_and_nothing_else(system, say, name):
    who = principal(f"ann-{len(name)}")
    say(who, name, "I live in Paris. My CANARY is yellow.")
    say(who, name, "Tell me about boats.")
    say(who, "other", "My dog is called Rex.")
    say(BOB, name, "I live in Rome.")
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": who.person}
    with TestClient(create_app(system), headers=headers) as http:
        path = f"/v1/memory/sessions/{quote(name, safe='')}"
        would = http.delete(path, params={"dry_run": True}).raise_for_status().json()
        assert files_with(system, "CANARY")
        done = http.delete(path).raise_for_status().json()
        assert {each["item"] for each in done["did"]} == {each["item"] for each in would["did"]}
        assert done["undo"] is None
        assert http.delete(path).raise_for_status().json()["did"] == []
    left = texts(system, who)
    assert "My dog is called Rex." in left
    assert not any("Paris" in each or "boats" in each for each in left)
    assert files_with(system, "CANARY") == []
    assert any("Rome" in each for each in texts(system, BOB))


def test_turns_that_are_not_memory_yet_go_with_their_session(system, say, monkeypatch):
    monkeypatch.setattr("memos_vllm.learning.forget._PENDING_SECONDS", 0.0)
    ann = principal("ann")
    for session in ("one", "two"):
        say(ann, session, "This is not memory yet.", remembered=False)
    Feedback(system).forget_session(ann, "one", dry_run=True)
    assert len(system.turns.waiting_of(ann)) == 2
    Feedback(system).forget_session(ann, "one", for_good=True)
    (left,) = system.turns.waiting_of(ann)
    assert system.turns.get(left).principal.session == "two"


def test_stored_replies_of_the_session_go_too_and_the_conversation_goes_on(system, say):
    ann = principal("ann")
    store = ResponseStore(system.database, 30, system.redactors)
    inside = store.create(ann, {}, [])
    for name, conversation, previous in (
        ("resp_1", None, None),
        ("resp_2", None, "resp_1"),
        ("resp_3", None, "resp_2"),
        ("resp_4", inside.id, None),
    ):
        item = {"type": "message", "role": "user", "content": f"My boat is {name}."}
        store.put(ann, StoredResponse(name, conversation, previous, [item], {"id": name}))
    say(ann, "one", "My boat is red.", request_id="resp_2")
    Feedback(system).forget_session(ann, "one", for_good=True)
    assert [item["content"] for item in store.history(ann, "resp_3")] == [
        "My boat is resp_1.",
        "My boat is resp_3.",
    ]
    Feedback(system).forget_session(ann, inside.id)
    assert store.items(ann, inside.id), "it can be undone"
    Feedback(system).forget_session(BOB, inside.id, for_good=True)
    assert store.items(ann, inside.id), "it is another's"
    Feedback(system).forget_session(ann, inside.id, for_good=True)
    for gone, look in ((inside.id, store.items), ("resp_4", store.get), ("resp_2", store.get)):
        with pytest.raises(NotFound):
            look(ann, gone)


def test_what_was_said_in_another_session_too_stays_known(system, say):
    ann = principal("ann")
    say(ann, "one", "I live in Paris.")
    say(ann, "two", "I live in Paris.")
    Feedback(system).forget_session(ann, "one", for_good=True)
    assert any("Paris" in each for each in texts(system, ann))


def test_items_of_one_import_in_other_sessions_stay(system):
    ann = principal("ann")
    items = [
        Item(text=f"Line {n} of the diary.", session=f"day-{n}", source=f"diary:{n}")
        for n in range(3)
    ]
    system.create(ann, [NewCube(payload=ExplicitPayload(content=items))])
    Feedback(system).forget_session(ann, "day-1", for_good=True)
    assert texts(system, ann) == {"Line 0 of the diary.", "Line 2 of the diary."}


def test_an_undoable_deletion_is_undone_and_a_hold_keeps_its_cube(system, say):
    ann = principal("ann")
    say(ann, "one", "My boat is red.")
    before = texts(system, ann)
    done = Feedback(system).forget_session(ann, "one")
    assert texts(system, ann) == set()
    Feedback(system).undo(ann, done.undo)
    assert texts(system, ann) == before
    freeze(system, "chat-one#1", "ann")
    done = Feedback(system).forget_session(ann, "one", for_good=True)
    assert (done.changes, done.held > 0) == ([], True)
    assert texts(system, ann) == before


def test_readers_and_callers_without_a_person_delete_no_session(system, say):
    say(principal("ann"), "one", "My boat is red.")
    for role, person in ((Role.READER, "ann"), (Role.WRITER, "")):
        _, key = system.keys.create("acme", role)
        headers = {"Authorization": f"Bearer {key}"} | ({"X-Memos-User": person} if person else {})
        with TestClient(create_app(system), headers=headers) as http:
            assert http.delete("/v1/memory/sessions/one").status_code == 403
    assert texts(system, principal("ann"))


# -- adapters that learnt it --------------------------------------------------------------------------


def learnt(system, who):
    """A cube with two facts, an adapter trained on it, one made from that, and one that saw neither."""
    source = text(system, who, "The code of the safe is 4711.", name="facts")
    made = adapter(system, who, [source], name="lora")
    of_that = adapter(system, who, [made], name="composite")
    other = adapter(system, who, [text(system, who, "The sea is red.")], name="other")
    return source, made, of_that, other


def trained(system, who):
    """A source of two items, the adapter that a job made from it, and the job."""
    source = text(system, who, "The code of the safe is 4711.", name="facts")
    system.update(who, source, CubePatch(append=[Item(text="The sea is red.")]))
    job = submit.distill(system, who, source, Distill(name="lora"))
    assert system.transforms.claim(job.id)
    made = adapter(system, who, [source], name="lora")
    assert system.transforms.end(job.id, JobState.DONE, {}, made)
    return source, made, job


def states(system, who, *cubes):
    return [system.vault.get(who.in_persona(EVERY_PERSONA), each).meta.state for each in cubes]


def forget_first(system, who, cube):
    (item, *_) = system.vault.get(who, cube).items
    return Feedback(system).forget_items(who, [item.id])


def test_adapters_that_learnt_a_forgotten_item_are_archived_and_come_back_by_undo(system):
    ann = principal("ann")
    source, made, of_that, other = learnt(system, ann)
    later = Item(text="The grass is blue.")
    system.update(ann, source, CubePatch(append=[later]))
    new = [item.id for item in system.vault.get(ann, source).items if item.text == later.text]
    Feedback(system).forget_items(ann, new)
    assert State.ARCHIVED not in states(system, ann, made, of_that, other), "they never saw it"
    done = forget_first(system, ann, source)
    assert states(system, ann, made, of_that) == [State.ARCHIVED] * 2
    assert states(system, ann, other) != [State.ARCHIVED]
    Feedback(system).undo(ann, done.undo)
    assert State.ARCHIVED not in states(system, ann, made, of_that)


def test_after_the_time_to_undo_they_are_deleted_and_trained_again_on_the_rest(system):
    ann = principal("ann")
    source, made, job = trained(system, ann)
    forget_first(system, ann, source)
    purge(system)
    with pytest.raises(NotFound):
        system.vault.get(ann, made)
    (again,) = [each for each in system.transforms.page(ann) if each.id != job.id]
    assert (again.request["cube"], again.request["name"]) == (source, "lora")
    assert again.state is JobState.QUEUED


def test_an_adapter_of_a_version_that_is_not_stored_any_more_counts_as_having_learnt_it(system):
    ann = principal("ann")
    source, made, *_ = learnt(system, ann)
    system.update(ann, source, CubePatch(append=[Item(text="The grass is blue.")]))
    first = system.vault.history(ann, source)[-1]
    with system.database.write() as session:
        session.connection().exec_driver_sql(f"DELETE FROM versions WHERE id = '{first.id}'")
    forget_first(system, ann, source)
    assert states(system, ann, made) == [State.ARCHIVED]


def test_an_adapter_is_found_by_every_way_that_leads_to_it(system):
    """`both` was made from a version without the item, and from an adapter that learnt it."""
    ann = principal("ann")
    source = text(system, ann, "The sea is red.", name="facts")
    both = adapter(system, ann, [source], name="both")
    last = adapter(system, ann, [both], name="last")
    later = Item(text="The code of the safe is 4711.")
    system.update(ann, source, CubePatch(append=[later]))
    taught = adapter(system, ann, [source], name="taught")
    merged = CubePatch(
        payload=ParametricPayload(content=small(1)), provenance=Provenance(parents=[taught])
    )
    system.update(ann, both, merged)
    (item,) = [i for i in system.vault.get(ann, source).items if i.text == later.text]
    Feedback(system).forget_items(ann, [item.id])
    assert states(system, ann, taught, both, last) == [State.ARCHIVED] * 3


def test_another_persons_adapters_stay(system):
    ann, admin = principal("ann"), principal("", role=Role.ADMIN)
    shared = text(system, admin, "The office opens at nine.", shared=True)
    theirs = adapter(system, admin, [shared], shared=True)
    again = CubePatch(
        payload=ParametricPayload(content=small(1)), provenance=Provenance(parents=[shared])
    )
    system.update(admin, theirs, again)
    mine = text(system, ann, "The office opens at nine.")
    forget_first(system, ann, mine)
    assert states(system, admin, theirs) != [State.ARCHIVED]


def test_an_adapter_that_was_archived_before_goes_too_and_is_not_trained_again(system):
    ann = principal("ann")
    source, made, job = trained(system, ann)
    system.update(ann, made, CubePatch(state=State.ARCHIVED))
    done = forget_first(system, ann, source)
    Feedback(system).undo(ann, done.undo)
    purge(system)
    assert states(system, ann, made) == [State.ARCHIVED], "undone: as it was"
    forget_first(system, ann, source)
    purge(system)
    with pytest.raises(NotFound):
        system.vault.get(ann, made)
    assert [each.id for each in system.transforms.page(ann)] in ([], [job.id])


def test_an_adapter_that_failed_its_gate_is_not_put_into_use_by_an_undo(system):
    ann = principal("ann")
    source = text(system, ann, "The code of the safe is 4711.", name="facts")
    content = ParametricPayload(content=small(0))
    meta = NewMeta(name="lora", state=State.GENERATED, provenance=Provenance(parents=[source]))
    made = system.create(ann, [NewCube(meta=meta, payload=content)])[0].meta.id
    done = forget_first(system, ann, source)
    Feedback(system).undo(ann, done.undo)
    assert State.ACTIVATED not in states(system, ann, made)
