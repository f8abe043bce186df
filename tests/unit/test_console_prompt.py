"""The page of a plan shows memory in its place in the prompt, with the texts that its reader may see now."""

from __future__ import annotations

import re

import pytest

from memos_vllm.cube.model import (
    CubePatch,
    ExplicitPayload,
    Item,
    Kind,
    NewCube,
    NewMeta,
    Placement,
)
from memos_vllm.governance.principal import Role
from tests.conftest import principal
from tests.console import Browser, console_app, entry, key_of, store_plan

ALICE = principal("alice")


@pytest.fixture
def app(system):
    return console_app(system)


def cube(system, name, *content, placement=Placement.RETRIEVED):
    new = NewCube(
        meta=NewMeta(name=name, placement=placement),
        payload=ExplicitPayload(content=list(content)),
    )
    return system.create(ALICE, [new])[0]


@pytest.fixture
def profile(system):
    items = [Item(text=f"Alice prefers answer {number}.") for number in range(25)]
    return cube(system, "profile", *items, placement=Placement.STABLE)


@pytest.fixture
def talks(system):
    return cube(
        system,
        "talks",
        Item(text="I moved to Rome.", time="2026-03-01T00:00:00Z", speaker="alice"),
        Item(text="I lived in Paris.", time="2025-03-01T00:00:00Z", speaker="alice"),
    )


@pytest.fixture
def plan(system, profile, talks):
    head = {"placement": Placement.STABLE, "name": "profile", "kv": "exact", "tokens": 1200}
    adapter = {"kind": Kind.PARAMETRIC, "form": "adapter", "name": "her-style"}
    rejected = {"decision": "rejected", "reason": "over the budget", "tokens": 9}
    store_plan(
        system,
        "chatcmpl-9",
        entries=(
            entry(profile.meta.id, version=profile.meta.version, **head),
            entry("cube_other", placement=Placement.STABLE, tokens=30),
            entry(talks.meta.id, talks.items[0].id, name="talks", tokens=12, score=0.9),
            entry(talks.meta.id, "item_gone", name="talks", tokens=8, score=0.8),
            entry(talks.meta.id, talks.items[1].id, name="talks", tokens=11, score=0.7),
            entry(talks.meta.id, "item_rejected", **rejected),
            entry("cube_lora", **adapter),
        ),
        injected_tokens=1261,
    )


def blocks(page):
    """The list of the page's prompt as text, without marks and double spaces."""
    found = re.search(r'<ol class="prompt">(.*?)</ol>', page, re.S)
    assert found is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[1]))


def test_memory_stands_in_the_order_of_the_prompt(system, app, plan):
    page = Browser(app, key_of(system)).get("plan", person="alice", request="chatcmpl-9").text
    shown = blocks(page)
    parts = (
        *("System message", "Memory at the head: 2 cubes, 1,230 tokens", "profile"),
        *("explicit, KV exact · 1,200 tokens", "Alice prefers answer 0.", "and 5 more"),
        *("deleted, changed, or not readable now", "History", "Memory for the question: 3 items"),
        *("31 tokens", "I lived in Paris.", "I moved to Rome.", "deleted, changed", "Question"),
    )
    places = [shown.index(parts[0])]
    for part in parts[1:]:
        places.append(shown.index(part, places[-1]))
    assert "answer 24" not in shown
    assert "item_rejected" not in shown
    assert "Attached to the model" in page
    assert "her-style" not in shown


def test_what_an_earlier_message_kept_stands_in_the_history(system, app, talks):
    first, second = talks.items
    store_plan(
        system,
        "chatcmpl-11",
        entries=(
            entry(talks.meta.id, second.id, name="talks", tokens=11, kept=True),
            entry(talks.meta.id, first.id, name="talks", tokens=12, score=0.9),
        ),
    )
    page = Browser(app, key_of(system)).get("plan", request="chatcmpl-11", person="alice").text
    history = page.index("History of the conversation")
    asked = page.index("Memory for the question: 1 item, 12 tokens")
    assert "memory that its messages kept: 1 item, 11 tokens" in page
    assert history < page.index(second.text) < asked < page.index(first.text)


def test_texts_of_a_plan_are_those_of_the_version_that_was_used(system, app, plan, profile):
    content = [Item(text="Alice prefers no answer.")]
    system.update(ALICE, profile.meta.id, CubePatch(payload=ExplicitPayload(content=content)), None)
    page = Browser(app, key_of(system)).get("plan", person="alice", request="chatcmpl-9").text
    assert "Alice prefers answer 0." in blocks(page)
    assert "no answer" not in blocks(page)


def test_a_deleted_cube_leaves_no_text_on_the_page(system, app, plan, profile, talks):
    for made in (profile, talks):
        system.delete(ALICE, made.meta.id)
    page = Browser(app, key_of(system)).get("plan", person="alice", request="chatcmpl-9").text
    assert blocks(page).count("deleted, changed, or not readable now") == 5
    for text in ("Rome", "Paris", "prefers"):
        assert text not in page


def test_a_person_sees_no_text_of_a_cube_that_is_not_theirs(system, app, profile, talks):
    used = {"version": profile.meta.version, "placement": Placement.STABLE}
    entries = (entry(profile.meta.id, **used), entry(talks.meta.id, talks.items[0].id))
    store_plan(system, "chatcmpl-bob", "bob", entries=entries)
    writer = Browser(app, key_of(system, Role.WRITER))
    page = writer.get("plan", person="bob", request="chatcmpl-bob").text
    assert "prefers" not in page
    assert "Rome" not in page
    assert blocks(page).count("deleted, changed, or not readable now") == 2


def test_a_plan_without_memory_shows_the_prompt_without_it(system, app):
    store_plan(system, "chatcmpl-0")
    page = Browser(app, key_of(system)).get("plan", person="alice", request="chatcmpl-0").text
    assert "no memory stands behind it" in blocks(page)
    assert "Memory for the question" not in page
