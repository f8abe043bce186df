"""Consolidation of claims: a profile in every prompt, and facts that search finds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from memos_vllm.cube.model import (
    Claim,
    ExplicitPayload,
    Item,
    ItemType,
    NewCube,
    NewMeta,
    Placement,
)
from memos_vllm.errors import NotFound
from memos_vllm.learning.consolidate import FACTS_ITEMS, PROFILE_ITEMS, Consolidator
from tests.conftest import freeze, principal

DAY = datetime(2026, 5, 1, tzinfo=UTC)
ALICE = principal("alice")


def claimed(attribute, value, day=0, kind=ItemType.FACT, **claim):
    source = claim.pop("source", f"m{day}-{attribute}-{value}")
    return Item(
        type=kind,
        text=f"alice: {attribute} is {value}",
        speaker="alice",
        time=DAY + timedelta(days=day),
        source=source,
        claim=Claim(subject="alice", attribute=attribute, value=value, sources=[source], **claim),
    )


@pytest.fixture
def consolidator(system):
    return Consolidator(system)


def texts(system, name, who=ALICE):
    return [item.text for item in system.vault.get(who, name).payload.content]


def known(system, at=DAY + timedelta(days=999), **where):
    found = system.knowledge.claims(ALICE, at=at, **where)
    return {each.item.claim.attribute: each.item.claim.value for each in found}


def test_identity_is_in_the_profile_and_other_claims_are_facts(system, consolidator):
    consolidator.take(ALICE, [claimed("home", "Paris"), claimed("cat.name", "Miso")])
    assert texts(system, "profile") == ["alice: home is Paris"]
    assert texts(system, "facts#1") == ["alice: cat.name is Miso"]
    stable = system.views.stable(ALICE, []).texts
    assert [cube.name for cube in stable] == ["profile"]
    assert system.views.stable(principal("bob"), []).texts == []


def test_an_ended_claim_leaves_the_profile_and_stays_a_fact(system, consolidator):
    consolidator.take(ALICE, [claimed("home", "Paris")])
    consolidator.take(ALICE, [claimed("home", "Berlin", day=9)])
    assert texts(system, "profile") == ["alice: home is Berlin"]
    assert texts(system, "facts#1") == ["alice: home is Paris"]
    assert known(system) == {"home": "Berlin"}
    assert known(system, at=DAY + timedelta(days=2)) == {"home": "Paris"}
    assert len(system.knowledge.claims(ALICE, attribute="home")) == 2


def test_a_claim_that_had_ended_before_it_was_told_is_not_in_the_profile(system, consolidator):
    consolidator.take(ALICE, [claimed("home", "Berlin", day=9)])
    consolidator.take(ALICE, [claimed("home", "Paris")])
    assert texts(system, "profile") == ["alice: home is Berlin"]
    assert texts(system, "facts#1") == ["alice: home is Paris"]


def test_a_repeated_claim_changes_no_word_of_the_prompt(system, consolidator):
    consolidator.take(ALICE, [claimed("home", "Paris")])
    before = system.vault.get(ALICE, "profile").payload.content
    consolidator.take(ALICE, [claimed("home", "Paris", day=3)])
    after = system.vault.get(ALICE, "profile").payload.content
    assert [item.id for item in after] == [item.id for item in before]
    assert after[0].claim.seen == 2
    version = system.vault.get(ALICE, "profile").meta.version
    consolidator.take(ALICE, [claimed("home", "Paris", day=3)])
    assert system.vault.get(ALICE, "profile").meta.version == version, "nothing new: no version"


def test_what_changes_and_what_is_new_are_one_version_of_the_facts(system, consolidator):
    consolidator.take(ALICE, [claimed("cat.name", "Miso"), claimed("car", "Golf")])
    before = len(system.vault.history(ALICE, "facts#1"))
    consolidator.take(ALICE, [claimed("cat.name", "Tofu", day=9), claimed("boat", "blue", day=9)])
    assert len(system.vault.history(ALICE, "facts#1")) == before + 1
    assert known(system) == {"cat.name": "Tofu", "car": "Golf", "boat": "blue"}


@pytest.mark.slow
def test_the_profile_stays_small_and_nothing_is_lost(system, consolidator):
    count = PROFILE_ITEMS + 5
    likes = [claimed(f"likes:{n}", str(n), kind=ItemType.PREFERENCE) for n in range(count)]
    consolidator.take(ALICE, likes)
    assert len(texts(system, "profile")) == PROFILE_ITEMS
    assert len(texts(system, "facts#1")) == 5
    consolidator.take(ALICE, [claimed(f"x{n}", "y") for n in range(FACTS_ITEMS)])
    assert len(texts(system, "facts#2")) == FACTS_ITEMS
    assert len(system.knowledge.claims(ALICE, limit=1000)) == count + FACTS_ITEMS


@pytest.mark.slow
def test_a_claim_in_an_older_part_is_superseded_there(system, consolidator):
    consolidator.take(ALICE, [claimed("cat.name", "Miso")])
    consolidator.take(ALICE, [claimed(f"x{n}", "y") for n in range(FACTS_ITEMS)])
    consolidator.take(ALICE, [claimed("cat.name", "Tofu", day=9)])
    assert known(system, attribute="cat") == {"cat.name": "Tofu"}
    old = system.vault.get(ALICE, "facts#1").payload.content[0].claim
    assert (old.value, old.ends) == ("Miso", DAY + timedelta(days=9))


def test_facts_of_two_people_stay_apart(system, consolidator):
    bob = principal("bob")
    consolidator.take(ALICE, [claimed("home", "Paris")])
    consolidator.take(bob, [claimed("home", "Rome", day=9)])
    assert known(system) == {"home": "Paris"}
    assert texts(system, "profile", bob) == ["alice: home is Rome"]


def test_a_cube_made_by_hand_or_frozen_is_left_alone(system, consolidator):
    by_hand = NewCube(meta=NewMeta(name="profile"), payload=ExplicitPayload(content="My notes."))
    cube = system.create(ALICE, [by_hand])[0].meta
    consolidator.take(ALICE, [claimed("home", "Paris")])
    assert texts(system, "profile") == ["My notes."]
    assert texts(system, "facts#1") == ["alice: home is Paris"]
    system.delete(ALICE, cube.id)
    consolidator.take(ALICE, [claimed("age", "40")])
    freeze(system, "profile")
    consolidator.take(ALICE, [claimed("age", "41", day=400)])
    assert texts(system, "profile") == ["alice: age is 40"]
    assert "alice: age is 41" in texts(system, "facts#1")


def test_a_deleted_profile_is_not_known_any_more(system, consolidator):
    consolidator.take(ALICE, [claimed("home", "Paris"), claimed("cat.name", "Miso")])
    system.delete(ALICE, "profile")
    assert known(system) == {"cat.name": "Miso"}
    with pytest.raises(NotFound):
        texts(system, "profile")
    consolidator.take(ALICE, [claimed("home", "Rome", day=1)])
    assert texts(system, "profile") == ["alice: home is Rome"]


def test_concurrent_consolidation_loses_no_claim(system, consolidator):
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(consolidator.take, ALICE, [claimed(f"x{n}", "y", day=n)]) for n in range(12)
        ]
        for job in jobs:
            job.result()
    assert len(known(system)) == 12


def test_the_profile_is_placed_and_versioned_like_any_cube(system, consolidator):
    consolidator.take(ALICE, [claimed("home", "Paris")], origin="chat")
    cube = system.vault.get(ALICE, "profile").meta
    assert (cube.placement, cube.tags, cube.provenance.origin) == (
        Placement.STABLE,
        ["profile"],
        "chat",
    )
    consolidator.take(ALICE, [claimed("home", "Rome", day=5)])
    system.rollback(ALICE, "profile", cube.version)
    assert texts(system, "profile") == ["alice: home is Paris"]
