"""A statement that a later one may have replaced is marked, in words of no list and in unlisted languages."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import numpy as np
import pytest

from memos_vllm.cube.model import Claim, Item, ItemType, Standing
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.plaintext.claims.fold import Retired, fold, retire
from memos_vllm.plaintext.claims.follow import FollowJudge
from memos_vllm.plaintext.claims.subjects import is_about_now, tells_change
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.statements.reader import StatementReader
from memos_vllm.prompt.layout import quote_item
from tests.unit.conftest import ALICE

FIRST, LATER = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 9, tzinfo=UTC)
SAME_THING = [
    (
        "My piano teacher is Mr. Olsen.",
        "Ms. Baptiste is my piano teacher.",
        "Who is my piano teacher?",
    ),
    (
        "Mein Büro ist im dritten Stock.",
        "Mein Büro ist im fünften Stock.",
        "In welchem Stock ist mein Büro?",
    ),
    (
        "La mia squadra di calcio si allena a Monza.",
        "La mia squadra di calcio si allena a Como.",
        "Dove si allena la mia squadra?",
    ),
    ("Мой кабинет на третьем этаже.", "Мой кабинет на пятом этаже.", "На каком этаже мой кабинет?"),
]
OTHER_THINGS = [
    ("I speak Polish.", "I also speak some Czech now."),
    ("I work as a baker.", "If I ever leave the bakery, I will become a sailor."),
    ("My internet is from Kestrel.", "My cousin left Kestrel for Heron."),
    ("Ich spiele Tuba.", "Inzwischen spiele ich zusätzlich Fagott."),
    ("My desk is made of oak.", "I am allergic to penicillin."),
    ("I met Bababo in the park.", "I met Babaka in the park."),
]


def hits(system, question):
    vector = asyncio.run(system.embed_question(ALICE, question))
    return system.search(ALICE, question, vector, 8).found


def profile(system):
    return [item for cube in system.views.stable(ALICE, []).texts for item in cube.items]


def claim_of(text, at=FIRST, source="a", standing=Standing.PREFERENCE):
    claim = Claim(subject="alice", sources=[source], last_seen=at, standing=standing)
    return Item(
        type=ItemType.PREFERENCE,
        text=text,
        speaker="alice",
        time=at,
        source=source,
        claim=claim,
    )


@pytest.mark.parametrize(("before", "after", "question"), SAME_THING)
def test_an_older_value_is_marked_and_stands_behind_the_newer(
    system, chat, before, after, question
):
    assert not tells_change(after), "no list of words knows it"
    chat(before)
    chat("I have two goldfish.")
    chat(after)
    found = hits(system, question)
    texts = [hit.recalled.item.text for hit in found]
    assert texts.index(after) < texts.index(before)
    for hit in found:
        is_old = hit.recalled.item.text == before
        assert (hit.followed is not None) == is_old, hit.recalled.item.text
        assert hit.over is None, "nothing ends without a word of change"
    assert before not in [item.text for item in profile(system)]


@pytest.mark.parametrize(("before", "after"), OTHER_THINGS)
def test_additions_suppositions_and_other_peoples_facts_end_nothing(system, chat, before, after):
    chat(before)
    chat(after)
    own = [hit for hit in hits(system, before) if hit.recalled.item.text == before]
    assert own
    assert all(hit.over is None for hit in own)
    assert all(hit.followed is None for hit in own)


def test_a_constraint_keeps_its_place_at_the_end_of_the_profile_and_is_marked(system):
    old = claim_of("Peanuts make me ill.", standing=Standing.CONSTRAINT)
    consolidator = Consolidator(system)
    consolidator.take(ALICE, [old, claim_of("I like tea.", source="b")])
    new = claim_of("Peanuts are fine for me, says the test.", LATER, source="c")
    consolidator.take(ALICE, [new], retired=[Retired(old, LATER, "c", is_certain=False)])
    items = profile(system)
    assert [item.text for item in items] == ["I like tea.", new.text, old.text]
    assert "perhaps until 9 Jan" in quote_item(items[-1], lambda text: text)


def test_a_preference_that_may_have_been_replaced_leaves_the_profile_and_holds(system):
    old, new = claim_of("I like tea."), claim_of("I like coffee.", LATER, "b")
    consolidator = Consolidator(system)
    consolidator.take(ALICE, [old])
    consolidator.take(ALICE, [new], retired=[Retired(old, LATER, "b", is_certain=False)])
    assert [item.text for item in profile(system)] == [new.text]
    claims = {each.item.text: each.item for each in system.knowledge.claims(ALICE)}
    assert claims[old.text].claim.followed_by == "b"
    assert holds(claims[old.text], LATER)


def test_what_is_said_again_is_current_again():
    folded = fold([claim_of("I like tea.")], [])
    old = folded.items[0]
    retire(folded, [Retired(old, LATER, "b", is_certain=False)])
    assert folded.items[0].claim.followed_at == LATER
    retire(folded, [Retired(old, FIRST, "c", is_certain=False)])
    assert folded.items[0].claim.followed_by == "b", "the latest is named"
    again = claim_of("I like tea.", datetime(2026, 1, 12, tzinfo=UTC), "d")
    claim = fold(folded.items, [again]).items[0].claim
    assert (claim.followed_by, claim.followed_at, claim.seen) == (None, None, 2)


def test_an_end_goes_before_a_mark():
    folded = fold([claim_of("I like tea.")], [])
    retire(folded, [Retired(folded.items[0], LATER, "b", is_certain=False)])
    retire(folded, [Retired(folded.items[0], LATER, "b")])
    line = quote_item(folded.items[0], lambda text: text)
    assert "until 9 Jan" in line
    assert "perhaps" not in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I moved to Ghent.", True),
        ("It was too loud, so I switched rooms.", True),
        ("I play chess, too.", False),
        ("Ich spiele auch noch Schach.", False),
        ("我也会下棋。", False),
        ("मैं शतरंज भी खेलता हूँ।", False),
        ("If I move, it will be to Ghent.", False),
        ("Früher habe ich in Gent gewohnt.", False),
        ("新しい机は白いです。", True),
    ],
)
def test_additions_suppositions_and_the_past_give_no_new_value(text, expected):
    assert is_about_now(text) is expected


def test_sentences_read_while_the_embedder_is_down_are_embedded_later(system, monkeypatch):
    reader = StatementReader(system.embedder)
    judge = FollowJudge(reader)
    monkeypatch.setattr(reader, "vectors", lambda texts: None)
    assert judge.sides(["I like tea."])[0].vector is None
    monkeypatch.undo()
    (side,) = judge.sides(["I like tea."])
    assert side.vector is not None
    assert np.isclose(np.linalg.norm(side.vector), 1.0, atol=1e-3)
