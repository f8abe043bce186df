"""Folding of claims, and validity of items in search."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.cube.ids import to_us
from memos_vllm.cube.model import Claim, ExplicitPayload, Item, ItemType, NewCube
from memos_vllm.plaintext.claims.fold import fold
from memos_vllm.plaintext.claims.validity import Past, holds
from memos_vllm.prompt.layout import quote_item
from memos_vllm.vault.items import IndexedItem
from tests.conftest import principal

DAY = datetime(2026, 5, 1, tzinfo=UTC)


def claimed(value, day=0, attribute="home", source=None, subject="alice", **claim):
    source = source or f"m{day}"
    return Item(
        type=ItemType.FACT,
        text=f"{subject} {attribute} {value}",
        time=DAY + timedelta(days=day),
        source=source,
        claim=Claim(subject=subject, attribute=attribute, value=value, sources=[source], **claim),
    )


def open_values(items, at=DAY + timedelta(days=999)):
    return sorted(item.claim.value for item in items if holds(item, at))


def test_a_repeated_fact_is_strengthened_and_not_duplicated():
    folded = fold([claimed("Paris")], [claimed("paris ", day=3)])
    (item,) = folded.items
    assert (item.claim.seen, item.claim.sources) == (2, ["m0", "m3"])
    assert item.claim.last_seen == DAY + timedelta(days=3)
    assert item.text == "alice home Paris"


def test_reading_a_message_again_changes_nothing():
    known = fold([], [claimed("Paris"), claimed("Berlin", day=3)]).items
    again = fold(known, [claimed("Paris"), claimed("Berlin", day=3)])
    assert not again.changed
    assert again.items == known


def test_a_newer_fact_ends_the_older_one_without_deleting_it():
    folded = fold([claimed("Paris")], [claimed("Berlin", day=3)])
    assert open_values(folded.items) == ["Berlin"]
    assert open_values(folded.items, at=DAY + timedelta(days=1)) == ["Berlin", "Paris"]
    old = folded.items[0].claim
    assert (old.value, old.ends) == ("Paris", DAY + timedelta(days=3))


def test_an_older_fact_read_later_ends_where_the_newer_one_begins():
    folded = fold([claimed("Berlin", day=3)], [claimed("Paris", day=0)])
    assert open_values(folded.items) == ["Berlin"]
    assert folded.items[1].claim.ends == DAY + timedelta(days=3)


def test_unrelated_facts_never_supersede_each_other():
    known = [
        claimed("Paris"),
        claimed("tea", attribute="likes:tea"),
        claimed("Miso", attribute="cat.name"),
        claimed("Rome", subject="bob"),
        Item(text="no claim at all", time=DAY),
    ]
    folded = fold(
        known, [claimed("Berlin", day=3), claimed("coffee", day=3, attribute="likes:coffee")]
    )
    assert open_values([i for i in folded.items if i.claim]) == sorted(
        ["Berlin", "tea", "Miso", "Rome", "coffee"]
    )
    assert known[4] in folded.items


def test_no_longer_ends_the_known_claim_and_adds_none():
    over = claimed("Paris", day=5, ends=DAY + timedelta(days=5))
    folded = fold([claimed("Paris")], [over])
    assert [item.claim.ends for item in folded.items] == [DAY + timedelta(days=5)]
    assert open_values(folded.items) == []
    assert not fold(folded.items, [over]).changed


def test_an_ended_claim_can_begin_again():
    items = fold([], [claimed("Paris"), claimed("Berlin", day=3), claimed("Paris", day=9)]).items
    assert open_values(items) == ["Paris"]
    assert len(items) == 3


def test_facts_without_an_attribute_are_compared_by_their_text():
    one, other = (
        Item(
            type=ItemType.FACT,
            text=text,
            time=DAY,
            claim=Claim(subject="alice", sources=[text]),
        )
        for text in ("alice plays chess", "alice sings")
    )
    assert len(fold([one], [other]).items) == 2
    again = one.model_copy(update={"claim": Claim(subject="alice", sources=["later"])})
    assert fold([one], [again]).items[0].claim.seen == 2


VALUES = st.sampled_from(["Paris", "Berlin", "Rome"])
CLAIMS = st.lists(
    st.builds(
        claimed,
        VALUES,
        day=st.integers(0, 6),
        attribute=st.sampled_from(["home", "job"]),
        subject=st.sampled_from(["alice", "bob"]),
        source=st.text("abcdef", min_size=6, max_size=6),
    ),
    max_size=12,
)


@given(CLAIMS)
def test_a_property_has_one_open_value_and_every_source(items):
    folded = fold([], items).items
    for subject in ("alice", "bob"):
        for attribute in ("home", "job"):
            same = [
                i
                for i in folded
                if (i.claim.subject, i.claim.attribute) == (subject, attribute)
                and holds(i, DAY + timedelta(days=99))
            ]
            stated = [
                i for i in items if (i.claim.subject, i.claim.attribute) == (subject, attribute)
            ]
            assert len({i.claim.value for i in same}) == bool(stated)
    sources = {source for item in folded for source in item.claim.sources}
    assert sources == {source for item in items for source in item.claim.sources}


@given(CLAIMS)
def test_folding_is_idempotent(items):
    folded = fold([], items).items
    assert fold(folded, items).items == folded


# -- ended items in search -------------------------------------------------------------------


def us(day):
    return to_us(DAY + timedelta(days=day))


def indexed(name, source=None, sources=(), ends=None):
    ends_us = us(ends) if ends is not None else None
    return IndexedItem(name, "c", name, None, None, None, source, sources, ends_us)


def test_a_turn_has_ended_only_when_all_its_claims_have_ended():
    items = [
        indexed("said paris", source="m0"),
        indexed("said paris and tea", source="m1"),
        indexed("small talk", source="m2"),
        indexed("paris", sources=("m0", "m1"), ends=3),
        indexed("tea", sources=("m1",)),
    ]
    past = Past(items)
    assert past.at(us(2)) == ({}, frozenset())
    over, claims = past.at(us(4))
    assert over == {"paris": us(3), "said paris": us(3)}
    assert claims == {"paris"}


def test_a_turn_with_an_ended_name_has_ended_in_any_wording():
    def indexed(name, turn, day, source=None, **claim):
        return IndexedItem(name, "c", turn, "alice", "s", us(day), source, **claim)

    def us(day):
        return to_us(DAY + timedelta(days=day))

    told = "Miso is what we named the cat."
    items = [
        indexed("told", told, 1, "m1"),
        indexed("soup", "Miso soup is good.", 1, "m2"),
        indexed("later", "When the cat was still Miso, it was small.", 9, "m3"),
        indexed("says", "alice's cat is called Miso", 2, sources=("m4",), names=("cat", "Miso"), ends_us=us(5)),
        indexed("now", "alice's cat is called Tofu", 5, sources=("m5",), names=("cat", "Tofu")),
    ]  # fmt: skip
    over, claims = Past(items).at(us(10))
    assert over == {"says": us(5), "told": us(5)}
    assert claims == {"says"}
    again = indexed(
        "again", "alice's cat is called Miso", 8, sources=("m6",), names=("cat", "Miso")
    )
    over, _ = Past([*items, again]).at(us(10))
    assert "told" not in over, "the name is valid again"


def test_a_past_event_is_found_like_any_other_item(system):
    alice = principal("alice")
    event = claimed("dentist", attribute=None, ends=DAY).model_copy(update={"type": ItemType.EVENT})
    home = claimed("Paris", ends=DAY)
    new = NewCube(payload=ExplicitPayload(content=[event, home]))
    system.create(alice, [new])

    def texts(**options):
        found = system.operator.search(alice, "dentist home Paris", None, 5, **options).found
        return {each.recalled.item.text: each.over for each in found}

    assert texts() == {event.text: None}
    assert texts(about_past=True) == {event.text: None, home.text: DAY}
    lines = [quote_item(item, str) for item in (event, home)]
    assert ["until" in line for line in lines] == [False, True]
