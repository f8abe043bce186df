"""Personas of one person, and several people in one conversation: separate memories."""

from __future__ import annotations

import dataclasses

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta, Placement
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Role, persona_of, persona_tag
from memos_vllm.learning.feedback import Feedback
from memos_vllm.options import read_options
from memos_vllm.vault.views import CubeFilter
from tests.conftest import principal
from tests.unit.conftest import ALICE

NURSE = ALICE.in_persona("nurse")
PARENT = ALICE.in_persona("parent")


def found(system, question, who):
    result = system.search(who, question, None, 10)
    return {each.recalled.item.text for each in result.found}


def stable(system, who):
    return {item.text for cube in system.views.stable(who, []).texts for item in cube.items}


def names(system, who=ALICE):
    headers, _ = system.views.page(who, CubeFilter(person=who.person))
    return {header.name for header in headers}


def test_turns_of_a_persona_are_found_in_that_persona_only(system, chat):
    chat("The ward has twelve beds.", NURSE)
    chat("The school has twelve rooms.", PARENT)
    chat("The sea has twelve islands.")
    general = "The sea has twelve islands."
    assert found(system, "twelve", NURSE) == {"The ward has twelve beds.", general}
    assert found(system, "twelve", PARENT) == {"The school has twelve rooms.", general}
    assert found(system, "twelve", ALICE) == {general}
    assert {"chat-s#1", "chat-s~nurse#1", "chat-s~parent#1"} <= names(system)


def test_each_role_has_a_profile_beside_the_person_s_own(system, chat):
    chat("I live in Paris.")
    chat("I work at Mercy Hospital.", NURSE)
    chat("I work at Acme.", PARENT)
    home, ward, firm = (
        "alice lives in Paris",
        "alice works at Mercy Hospital",
        "alice works at Acme",
    )
    assert stable(system, ALICE) == {home}
    assert stable(system, NURSE) == {home, ward}
    assert stable(system, PARENT) == {home, firm}
    chat("I work at City Hospital.", NURSE)
    assert stable(system, NURSE) == {home, "alice works at City Hospital"}
    assert stable(system, PARENT) == {home, firm}, "claims of other personas are not superseded"


def test_a_persona_is_a_cube_that_stands_in_its_prompts(system):
    text = "As a nurse, alice wants doses in milligrams."
    meta = NewMeta(placement=Placement.STABLE, tags=persona_tag("nurse"))
    new = NewCube(meta=meta, payload=ExplicitPayload(content=[Item(text=text)]))
    (cube,) = system.create(ALICE, [new])
    assert stable(system, NURSE) == {text}
    assert stable(system, ALICE) == stable(system, PARENT) == set()
    (named,) = system.views.stable(PARENT, [cube.meta.id]).texts
    assert named.cube_id == cube.meta.id, "a named cube is used in every persona"
    bob = principal("bob").in_persona("nurse")
    assert stable(system, bob) == set(), "a persona belongs to one person"
    assert persona_of(["chat", *persona_tag("nurse")]) == "nurse"


def test_forgetting_reaches_every_role_and_correcting_stays_in_one(system, chat):
    chat("My cat is called Miso.", NURSE)
    chat("My cat is called Miso.", PARENT)
    chat("My dog is called Rex.", PARENT)
    feedback = Feedback(system)
    feedback.forget(ALICE, "my cat is called Miso")
    assert not system.knowledge.claims(ALICE, attribute="cat.name")
    assert found(system, "Miso cat", NURSE) == set()
    (dog,) = system.knowledge.claims(ALICE, attribute="dog.name")
    feedback.correct(ALICE, dog.item.id, "My dog is called Bello.", dry_run=False)
    open_ones = [
        each.item.claim.value
        for each in system.knowledge.claims(ALICE, attribute="dog.name")
        if each.item.claim.ends is None
    ]
    assert open_ones == ["Bello"]
    assert "alice's dog is called Bello" not in found(system, "dog called", ALICE)
    assert "alice's dog is called Bello" in found(system, "dog called", PARENT)


def test_people_in_one_conversation_have_separate_memories(system, chat):
    bob = dataclasses.replace(principal("bob"), session="s")
    chat("I live in Paris.")
    chat("I live in Rome.", bob)
    assert stable(system, ALICE) == {"alice lives in Paris"}
    assert stable(system, bob) == {"bob lives in Rome"}
    assert "I live in Rome." not in found(system, "live in Rome Paris", ALICE)


def test_a_persona_over_http(system, chat):
    assert read_options({"persona": "nurse"}).persona == "nurse"
    for wrong in ("", "*", "a b", "x" * 65):
        with pytest.raises(BadRequest, match=r"memory\.persona"):
            read_options({"persona": wrong})
    chat("The ward has twelve beds.", NURSE)
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    http = TestClient(create_app(system), headers=headers, raise_server_exceptions=False)

    def texts(**body):
        reply = http.post("/v1/memory/search", json={"query": "beds of the ward", **body})
        assert reply.status_code == 200, reply.text
        return [hit["item"]["text"] for hit in reply.json()["results"]]

    assert texts() == []
    assert texts(persona="nurse")[0] == "The ward has twelve beds."
    said = {"text": "I work at Mercy Hospital.", "persona": "nurse"}
    assert http.post("/v1/memory/feedback", json=said).status_code == 200
    assert stable(system, NURSE) == {"alice works at Mercy Hospital"}
    assert stable(system, ALICE) == set()
    assert http.post("/v1/memory/search", json={"query": "x", "persona": "*"}).status_code == 400
