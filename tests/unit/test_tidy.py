"""Sameness, merging and archiving of memory, without loss of items."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.cube.model import (
    Access,
    Claim,
    CubePatch,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    State,
)
from memos_vllm.errors import Conflict, NotFound, Unprocessable
from memos_vllm.governance.principal import Role
from memos_vllm.learning import lifecycle
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.plaintext.claims.sameness import says_the_same
from tests.conftest import principal

ALICE, BOB = principal("alice"), principal("bob")
ADMIN = dataclasses.replace(principal(""), role=Role.ADMIN)
DAY = datetime(2026, 5, 1, tzinfo=UTC)
DAY_US = 86_400_000_000


def claimed(text, source="m1", attribute=None, value=None, **claim):
    made = Claim(subject="alice", attribute=attribute, value=value, sources=[source], **claim)
    return Item(type=ItemType.FACT, text=text, speaker="alice", time=DAY, source=source, claim=made)


def keep(system, *items, who=ALICE, **meta):
    new = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=list(items)))
    return system.create(who, [new])[0]


def texts(system, ref, who=ALICE):
    return [item.text for item in system.vault.get(who, ref).payload.content]


def state(system, ref, who=ALICE):
    return system.vault.get(who, ref).meta.state


# -- sameness ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("alice went hiking in the mountains", "In the mountains, alice hiked and went", True),
        ("alice repaired the kitchen sink", "alice repaired the bathroom sink", False),
        ("alice sold the old car", "alice bought the old car", False),
        ("alice likes the new flat", "alice does not like the new flat", False),
        ("alice paid 12 crowns", "alice paid 21 crowns", False),
        ("alice met Tom", "alice met tom", False),
    ],
)
def test_sameness_needs_the_same_words(one, other, same):
    assert says_the_same(Item(text=one), Item(text=other)) is same
    assert says_the_same(Item(text=other), Item(text=one)) is same


def test_items_of_other_subjects_or_times_are_not_the_same():
    one = claimed("it rained all day")
    assert says_the_same(one, claimed("It rained all day.", "m2"))
    assert not says_the_same(one, one.model_copy(update={"speaker": "bob"}))
    assert not says_the_same(one, claimed("it rained all day", begins=DAY))
    assert not says_the_same(one, Item(text="it rained all day"))


def test_a_fact_in_other_words_strengthens_the_one_that_is_known(system):
    consolidator = Consolidator(system)
    consolidator.take(ALICE, [claimed("alice went hiking in the mountains", "m1")])
    folded = consolidator.take(ALICE, [claimed("In the mountains, alice went hiking", "m2")])
    assert not folded.added
    (known,) = system.knowledge.claims(ALICE)
    assert known.item.claim.seen == 2
    assert known.item.claim.sources == ["m1", "m2"]
    consolidator.take(ALICE, [claimed("alice went hiking in the valley", "m3")])
    consolidator.take(BOB, [claimed("alice went hiking in the mountains", "m4")])
    assert len(system.knowledge.claims(ALICE)) == 2
    assert len(system.knowledge.claims(BOB)) == 1


# -- merging -------------------------------------------------------------------------------------------


def test_merging_keeps_every_item_once_and_where_it_comes_from(system):
    turn = Item(text="I hiked.", speaker="alice", time=DAY, source="t1")
    again = turn.model_copy(update={"time": DAY.replace(day=2), "source": "t2"})
    old = keep(system, turn, claimed("alice's home is Paris", "m1", "home", "Paris"), name="old")
    into = keep(
        system, turn, again, claimed("alice's home is Paris", "m2", "home", "Paris"), name="new"
    )
    made = lifecycle.merge(system, ALICE, "old", "new")
    assert made.meta.id == into.meta.id
    assert sorted(texts(system, "new")) == ["I hiked.", "I hiked.", "alice's home is Paris"]
    (claim,) = (item.claim for item in made.payload.content if item.claim)
    assert sorted(claim.sources) == ["m1", "m2"]
    assert made.meta.provenance.parents == [old.meta.id]
    assert state(system, "old") is State.MERGED
    found = system.search(ALICE, "hiked home Paris", None, 10).found
    assert {each.recalled.cube_id for each in found} == {into.meta.id}


def test_a_merge_that_was_killed_is_repeated_without_harm(system, monkeypatch):
    keep(system, claimed("alice's cat is Miso", "m1", "cat.name", "Miso"), name="old")
    keep(system, Item(text="Bread is good."), name="new")
    whole, killed = system.update, RuntimeError("killed")

    def dies(caller, ref, patch, **options):
        if patch.state is not None:
            raise killed
        return whole(caller, ref, patch, **options)

    monkeypatch.setattr(system, "update", dies)
    with pytest.raises(RuntimeError):
        lifecycle.merge(system, ALICE, "old", "new")
    monkeypatch.undo()
    assert state(system, "old") is State.ACTIVATED
    lifecycle.merge(system, ALICE, "old", "new")
    assert sorted(texts(system, "new")) == ["Bread is good.", "alice's cat is Miso"]
    assert state(system, "old") is State.MERGED


def test_items_added_during_a_merge_are_merged_too(system, monkeypatch):
    keep(system, Item(text="Bread is good."), name="old")
    keep(system, Item(text="Tea is good."), name="new")
    whole, late = system.update, [Item(text="Soup is good.")]

    def meanwhile(caller, ref, patch, **options):
        if patch.state is not None and late:
            whole(caller, "old", CubePatch(append=[late.pop()]))
        return whole(caller, ref, patch, **options)

    monkeypatch.setattr(system, "update", meanwhile)
    lifecycle.merge(system, ALICE, "old", "new")
    assert sorted(texts(system, "new")) == ["Bread is good.", "Soup is good.", "Tea is good."]

    def always(caller, ref, patch, **options):
        if patch.state is not None:
            raise Conflict("moved on")
        return whole(caller, ref, patch, **options)

    keep(system, Item(text="Salt is good."), name="third")
    monkeypatch.setattr(system, "update", always)
    with pytest.raises(Conflict, match="try again"):
        lifecycle.merge(system, ALICE, "third", "new")


def test_cubes_that_cannot_be_merged_are_refused(system):
    keep(system, Item(text="Bread."), name="mine")
    shared = keep(system, Item(text="Tea."), who=ADMIN, shared=True, name="ours")
    few = keep(system, Item(text="Salt."), who=ADMIN, shared=True, access=Access(readers=["alice"]))
    theirs = keep(system, Item(text="Soup."), who=BOB, name="theirs")
    with pytest.raises(Unprocessable, match="itself"):
        lifecycle.merge(system, ALICE, "mine", "mine")
    with pytest.raises(NotFound):
        lifecycle.merge(system, ALICE, "mine", theirs.meta.id)
    for source, into in (("mine", shared.meta.id), (few.meta.id, shared.meta.id)):
        with pytest.raises(Unprocessable, match="readers"):
            lifecycle.merge(system, dataclasses.replace(ADMIN, person="alice"), source, into)
    system.update(ALICE, "mine", CubePatch(state=State.ARCHIVED))
    keep(system, Item(text="Salt."), name="other")
    with pytest.raises(Unprocessable, match="active"):
        lifecycle.merge(system, ALICE, "other", "mine")


def test_a_merge_over_http(system):
    keep(system, Item(text="Bread."), name="old")
    keep(system, Item(text="Tea."), name="new")
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    http = TestClient(create_app(system), headers=headers, raise_server_exceptions=False)
    path = "/v1/memory/cubes/old/merge"
    assert http.post(path, json={"into": "nothing"}).status_code == 404
    merged = http.post(path, json={"into": "new"})
    assert merged.status_code == 200, merged.text
    assert len(merged.json()["payload"]["content"]) == 2
    refused = http.post("/v1/memory/cubes/new/merge", json={"into": "new"})
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "into"
