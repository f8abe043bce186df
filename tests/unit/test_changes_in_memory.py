"""What is over, in the memory of a person: rules, folding and the vault together."""

from __future__ import annotations

import pytest

from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import Item, ItemType
from memos_vllm.learning.consolidate import Consolidator
from memos_vllm.plaintext.claims.validity import holds
from memos_vllm.plaintext.reader.by_rules import read_claims
from tests.conftest import principal


@pytest.mark.parametrize(
    "past",
    [
        "I used to live in Rome.",
        "I no longer live in Rome.",
        "I lived in Rome until last year.",
        "I don't live in Rome any more.",
    ],
)
def test_what_is_over_ends_nothing_that_holds(system, past):
    _say_all(system, "I live in Berlin.", past)
    assert _open_values(system, "home") == ["Berlin"]


def test_an_end_without_a_value_ends_every_value(system):
    _say_all(system, "I'm allergic to nuts.", "I am allergic to penicillin.")
    assert sorted(_open_values(system, "allergy:")) == ["nuts", "penicillin"]
    _say_all(system, "I'm not allergic after all.")
    assert _open_values(system, "allergy:") == []


def _say_all(system, *texts):
    person = principal("alice")
    for number, text in enumerate(texts):
        source = f"{text}{number}:user"
        turn = Item(
            type=ItemType.EPISODE,
            text=text,
            speaker="alice",
            time=to_datetime(now_us()),
            source=source,
        )
        Consolidator(system).take(person, read_claims([turn], "alice"))


def _open_values(system, attribute):
    now = to_datetime(now_us())
    found = [each.item for each in system.knowledge.claims(principal("alice"))]
    return [
        item.claim.value
        for item in found
        if (item.claim.attribute or "").startswith(attribute) and holds(item, now)
    ]
