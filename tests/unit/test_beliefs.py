"""Statements that no rule reads are kept verbatim, and newer ones win, in any words and several languages."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.conftest import ALICE


def profile(system, who=ALICE):
    return [item.text for cube in system.views.stable(who, []).texts for item in cube.items]


def found(system, question, who=ALICE, top_k=8):
    vector = asyncio.run(system.embed_question(who, question))
    return system.search(who, question, vector, top_k).found


@pytest.mark.parametrize(
    "said",
    [
        "I can't stand horror novels, they keep me awake.",
        "I'd rather take the night train than fly.",
        "I avoid restaurants with loud music.",
        "Ich kann laute Kneipen nicht ausstehen.",
        "Je ne supporte pas les films d'horreur.",
        "我受不了恐怖电影。",
    ],
)
def test_a_preference_that_no_rule_reads_stands_in_the_profile_verbatim(system, chat, said):
    chat(said)
    (cube,) = system.views.stable(ALICE, []).texts
    (item,) = [item for item in cube.items if item.claim.standing is not None]
    assert item.text == said
    assert (item.speaker, item.claim.subject) == ("alice", "alice")
    assert item.time is not None
    assert item.source.endswith(":user")


def test_a_newer_statement_ends_the_older_and_comes_first(system, chat):
    chat("I drink coffee every single morning.", reply="Coffee it is!")
    chat("My desk is made of oak.")
    chat("I switched from coffee to tea.")
    texts = [
        (hit.recalled.item.text, hit.over is not None) for hit in found(system, "coffee or tea?")
    ]
    new = texts.index(("I switched from coffee to tea.", False))
    old = texts.index(("I drink coffee every single morning.", True))
    assert new < old
    assert ("Coffee it is!", True) in texts
    assert "I drink coffee every single morning." not in profile(system)
