"""A whole person from server to server: with another embedder and database, twice, and interrupted."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import (
    CubePatch,
    Item,
    Placement,
    State,
)
from memos_vllm.governance.principal import Role
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.forgetting import read_orders
from tests.conftest import FakeQueue, principal
from tests.unit.persons import (
    ADMIN,
    ALICE,
    Systems,
    exported,
    imported,
    keep,
    lived_in,
    say,
    systems,
)

__all__ = ["systems"]


@pytest.mark.parametrize(("here", "there"), [("sqlite", "postgres"), ("postgres", "sqlite")])
def test_a_person_exported_imported_and_exported_again_is_the_same(
    systems: Systems, tmp_path: Path, here: str, there: str
) -> None:
    old, new = systems("old", here), systems("new", there)
    lived_in(old)
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    before = exported(old, tmp_path / "a.jsonl")
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600
    outcome = imported(new, tmp_path / "a.jsonl")
    assert (outcome.skipped.tree(), outcome.renamed) == ([], {})
    assert outcome.created == before[-1]["cubes"] >= 12
    assert outcome.turns == 1
    assert exported(new, tmp_path / "b.jsonl") == before
    assert new.audit.verify(dataclasses.replace(ADMIN, person="")) == []


def test_the_imported_person_is_found_frozen_shared_and_reads_the_past(
    systems: Systems, tmp_path: Path
) -> None:
    # Another embedder: texts are embedded in another form, and by it alone.
    old, new = systems("old"), systems("new", embedder={"passage_prefix": "passage: "})
    lived_in(old)
    moment = now_us()
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    exported(old, tmp_path / "a.jsonl")
    imported(new, tmp_path / "a.jsonl")
    found = new.search(ALICE, "cat Miso", None, 5).found
    assert any("Miso" in each.recalled.item.text for each in found)
    assert new.vault.get(ALICE, "held").meta.state is State.FROZEN
    with pytest.raises(Exception, match="hold"):
        new.delete(ALICE, "held")
    assert new.vault.get(principal("bob"), new.vault.get(ALICE, "notes").meta.id)
    claims = {each.item.text for each in new.knowledge.claims(ALICE)}
    assert claims == {each.item.text for each in old.knowledge.claims(ALICE)}
    assert [v.sequence for v in new.vault.history(ALICE, "handbook")] == [3, 2, 1]
    assert len(new.past.get(ALICE, "handbook", moment).items) == 2
    # What the person says next is consolidated with what came along.
    say(new, "My cat is called Tofu.")
    current = {c.item.claim.value for c in new.knowledge.claims(ALICE) if c.item.claim}
    assert "Tofu" in current


def test_a_second_import_changes_nothing_also_where_memory_went_on(
    systems: Systems, tmp_path: Path
) -> None:
    old, new = systems("old"), systems("new")
    lived_in(old)
    exported(old, tmp_path / "a.jsonl")
    imported(new, tmp_path / "a.jsonl")
    new.update(ALICE, "handbook", CubePatch(append=[Item(text="more")]))
    say(new, "I have a dog.")
    before = exported(new, tmp_path / "b.jsonl")
    again = imported(new, tmp_path / "a.jsonl")
    assert (again.created, again.turns) == (0, 0)
    assert again.held > 10
    assert exported(new, tmp_path / "c.jsonl") == before
    # The archive of the copy, back on the first server: each cube is known there.
    back = imported(old, tmp_path / "b.jsonl")
    assert back.created == before[-1]["cubes"] - again.held


def test_an_import_that_is_killed_goes_on_where_it_stopped(
    systems: Systems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = systems("old"), systems("new", "postgres")
    lived_in(old)
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    before = exported(old, tmp_path / "a.jsonl")
    put, count = new.payloads.put, 0

    def dies(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 9:  # between two versions of a cube
            raise KeyboardInterrupt
        return put(*args)

    monkeypatch.setattr(new.payloads, "put", dies)
    with pytest.raises(KeyboardInterrupt):
        imported(new, tmp_path / "a.jsonl")
    monkeypatch.undo()
    outcome = imported(new, tmp_path / "a.jsonl")
    assert outcome.held > 0
    assert outcome.created > 0
    assert exported(new, tmp_path / "b.jsonl") == before


def test_another_tenants_person_and_other_people_stay_as_they_are(
    systems: Systems, tmp_path: Path
) -> None:
    old, new = systems("old"), systems("new")
    lived_in(old)
    exported(old, tmp_path / "a.jsonl")
    stranger, bob = principal("alice", "other"), principal("bob")
    keep(new, "hers", who=stranger, name="held")
    keep(new, "his", who=bob, name="held")
    admin_of_other = principal("alice", "other", Role.ADMIN)
    theirs = exported(new, tmp_path / "t.jsonl", admin_of_other)
    his = exported(new, tmp_path / "h.jsonl", principal("bob", role=Role.ADMIN))
    imported(new, tmp_path / "a.jsonl")
    assert exported(new, tmp_path / "t2.jsonl", admin_of_other) == theirs
    assert exported(new, tmp_path / "h2.jsonl", principal("bob", role=Role.ADMIN)) == his
    # The same file in the other tenant is that tenant's person, with cubes of its own.
    assert imported(new, tmp_path / "a.jsonl", admin_of_other).created > 10
    assert new.vault.get(stranger, "held").items[0].text == "hers"


def test_names_that_are_taken_give_way_and_a_second_profile_becomes_facts(
    systems: Systems, tmp_path: Path
) -> None:
    old, new = systems("old"), systems("new")
    lived_in(old)
    exported(old, tmp_path / "a.jsonl")
    say(new, "I am vegan. My name is Alice.")
    keep(new, "mine", name="handbook")
    outcome = imported(new, tmp_path / "a.jsonl")
    assert outcome.renamed["handbook"] == "handbook (imported)"
    assert outcome.renamed["profile"].startswith("facts#")
    assert outcome.renamed["chat-monday#1"] == "chat-monday#2"
    facts = new.vault.get(ALICE, outcome.renamed["profile"]).meta
    assert (facts.placement, facts.tags) == (Placement.RETRIEVED, ["facts"])


def test_for_another_person_and_with_what_the_tenant_redacts(
    systems: Systems, tmp_path: Path
) -> None:
    old = systems("old", remember={"secrets": "keep"})
    new = systems("new")
    keep(old, "My password is hunter22.", name="p")
    exported(old, tmp_path / "a.jsonl")
    assert "hunter22" in (tmp_path / "a.jsonl").read_text()
    say(old, "My cat is called Miso.")
    exported(old, tmp_path / "a.jsonl")
    imported(new, tmp_path / "a.jsonl", person="zoe")
    zoe = dataclasses.replace(principal("zoe"), session="monday")
    (claim,) = (each.item for each in new.knowledge.claims(zoe))
    assert (claim.speaker, claim.claim and claim.claim.subject) == ("zoe", "zoe")
    say(new, "My cat is called Tofu now.", zoe)
    assert (
        len([c for c in new.knowledge.claims(zoe) if c.item.claim and not c.item.claim.ends]) == 1
    )
    assert new.vault.history(zoe, "p")[0].author == "zoe"
    cube = new.vault.get(zoe, "p")
    assert "hunter22" not in cube.model_dump_json()
    stored = [path.read_bytes() for path in Path(new.config.payload_url).rglob("*.json")]
    assert stored
    assert all(b"hunter22" not in each for each in stored)


def test_what_was_forgotten_is_in_no_archive(systems: Systems, tmp_path: Path) -> None:
    old = systems("old")
    say(old, "My cat is called Miso. I like tea.")
    rememberer = Rememberer(old, FakeQueue(old.jobs, old.config.jobs))
    orders = read_orders("Forget that my cat is called Miso.")
    assert orders is not None
    assert rememberer.forget(ALICE, orders.orders).count
    records = exported(old, tmp_path / "a.jsonl")
    assert "Miso" not in (tmp_path / "a.jsonl").read_text()
    (left,) = records[-1]["left_out"]
    assert left["what"] == "version"
    assert left["count"] >= 1
    assert "forgotten" in left["reason"]


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_two_imports_at_once_make_each_cube_once(
    systems: Systems, tmp_path: Path, database: str
) -> None:
    old, new = systems("old"), systems("new", database)
    lived_in(old)
    new.groups.create(dataclasses.replace(ADMIN, person=""), "team")
    before = exported(old, tmp_path / "a.jsonl")
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda _: imported(new, tmp_path / "a.jsonl"), range(3)))
    assert sum(each.created for each in made) == before[-1]["cubes"]
    assert all(each.skipped.tree() == [] for each in made)
    assert exported(new, tmp_path / "b.jsonl") == before
