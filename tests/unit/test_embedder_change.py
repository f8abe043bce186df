"""A changed embedder: the old vectors serve until the new ones are complete."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from memos_vllm.cli.checks import check_memory
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.errors import EmbedderUnavailable, IndexUnavailable
from memos_vllm.metrics import INDEX_CHANGE_ITEMS
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.search import embedder_change
from memos_vllm.plaintext.search.vector_store import LAYOUT, READABLE_LAYOUTS, VectorIndex
from memos_vllm.system import MemorySystem
from memos_vllm.vault.items import Owner
from tests.conftest import make_config, principal

ALICE, BOB = principal("alice"), principal("bob")
OWNERS = [Owner(person.tenant, person.person) for person in (ALICE, BOB)]
CAT = "My cat is called Miso."


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """Two models of which the older can be taken away."""
    old = shutil.copytree(demo_embedder_path(), tmp_path / "old-model")
    return {"old": str(old), "new": str(demo_embedder_path())}


@pytest.fixture
def start(tmp_path: Path, models: dict[str, str]) -> Iterator[Callable[..., MemorySystem]]:
    """Start a server's memory with one of the models; the one before is closed."""
    running: list[MemorySystem] = []

    def open_system(model: str, **embedder: Any) -> MemorySystem:
        while running:
            running.pop().close()
        settings = {"model": models[model], "passage_prefix": f"{model}: "} | embedder
        system = MemorySystem(make_config(tmp_path / "home", embedder=settings)).open()
        running.append(system)
        system.indexer.serve_stored()
        return system

    yield open_system
    while running:
        running.pop().close()


def add(system: MemorySystem, person: Any, *texts: str) -> str:
    items = [Item(text=text) for text in texts]
    cube = system.create(person, [NewCube(payload=ExplicitPayload(content=items))])[0]
    return cube.meta.id


def built_by(start: Callable[..., MemorySystem]) -> tuple[MemorySystem, str]:
    """Memory indexed by the old model, then a start with the new one."""
    system = start("old")
    cube = add(system, ALICE, CAT, *(f"Note {n} is about the weather." for n in range(70)))
    add(system, BOB, "Bob lives in Oslo.")
    system.indexer._check_signature()
    return start("new"), cube


def dense(system: MemorySystem, person: Any = ALICE, question: str = "the kitten") -> list[float]:
    """Cosines of the best results."""
    vector = asyncio.run(system.embed_question(person, question))
    found = system.search(person, question, vector, 3).found
    return [hit.signals["dense_turn"] for hit in found if "dense_turn" in hit.signals]


def finish(system: MemorySystem) -> None:
    while system.indexer._check_signature():
        pass
    system.indexer._check_signature()  # removes what is left over


def collections(system: MemorySystem) -> set[str]:
    """Prefixes of the collections in Chroma."""
    names = (collection.name for collection in system.index._open().list_collections())
    return {name.rpartition("-turn-")[0] for name in names if "-turn-" in name}


def test_the_old_vectors_serve_until_the_new_ones_are_complete(start) -> None:
    system, _ = built_by(start)
    before = dense(system)
    assert before
    old = system.embedder.signature
    assert system.indexer._check_signature()  # a batch of several
    assert (system.embedder.signature, dense(system)) == (old, before)
    assert len(collections(system)) == 2
    finish(system)
    assert system.embedder.signature != old
    assert system.outbox.index_signature() == system.indexer.signature
    assert len(collections(system)) == 1  # the old vectors are gone
    for owner, count in zip(OWNERS, (71, 1), strict=True):
        assert len(system.index.ids_of(owner, "turn")) == count
    after = dense(system)
    assert after
    assert after != before


def test_the_new_vectors_serve_after_another_start(start) -> None:
    system, _ = built_by(start)
    finish(system)
    expected = dense(system)
    again = start("new")
    assert dense(again) == expected
    add(again, ALICE, "A later note.")
    assert len(again.index.ids_of(OWNERS[0], "turn")) == 72
    assert len(collections(again)) == 1


def test_changes_of_memory_during_the_change_reach_both(start) -> None:
    system, cube = built_by(start)
    for _ in range(3):
        system.indexer._check_signature()
    keep = [Item(text=text) for text in (CAT, "The weather is fine.")]
    system.update(ALICE, cube, CubePatch(payload=ExplicitPayload(content=keep)))
    add(system, ALICE, "My dog is called Rex.")
    assert dense(system, question="dog")
    gone = add(system, BOB, "Bob has a boat.")
    system.indexer._check_signature()
    system.delete(BOB, gone)
    finish(system)
    index = system.index
    assert len(index.ids_of(OWNERS[0], "turn")) == 3
    assert len(index.ids_of(OWNERS[1], "turn")) == 1
    rebuilt = dense(system)
    system.indexer.rebuild()
    assert dense(system) == pytest.approx(rebuilt, abs=1e-4)


def test_a_change_goes_on_after_a_restart(start) -> None:
    system, _ = built_by(start)
    for _ in range(3):
        system.indexer._check_signature()
    restarted = start("new")
    with mock.patch.object(
        embedder_change, "vectors_of", side_effect=embedder_change.vectors_of
    ) as embedded:
        finish(restarted)
    assert embedded.call_count < 4  # of four batches, without those that were there
    assert dense(restarted)


def test_going_back_to_the_old_embedder_removes_what_was_built(start) -> None:
    system, _ = built_by(start)
    for _ in range(3):
        system.indexer._check_signature()
    back = start("old")
    assert dense(back)
    finish(back)
    assert len(collections(back)) == 1
    assert len(back.index.ids_of(OWNERS[0], "turn")) == 71


@pytest.mark.parametrize("fault", ["embedder", "index"])
def test_a_failure_keeps_the_old_vectors(start, fault: str) -> None:
    system, _ = built_by(start)
    before = dense(system)
    broken = (
        mock.patch.object(Embedder, "embed", side_effect=EmbedderUnavailable("broken"))
        if fault == "embedder"
        else mock.patch.object(VectorIndex, "upsert_all", side_effect=IndexUnavailable("down"))
    )
    with broken:
        for _ in range(2):
            with pytest.raises((EmbedderUnavailable, IndexUnavailable)):
                finish(system)
        assert dense(system) == before
    add(system, ALICE, "Another note.")
    finish(system)
    assert len(system.index.ids_of(OWNERS[0], "turn")) == 72
    assert dense(system)


def test_without_the_old_model_words_serve_until_the_new_vectors_are_complete(
    start, models: dict[str, str]
) -> None:
    start("old")
    system, _ = built_by(start)
    shutil.rmtree(models["old"])
    system = start("new")
    with pytest.raises(EmbedderUnavailable, match="old-model"):
        dense(system)
    assert [hit.recalled.item.text for hit in system.search(ALICE, "cat", None, 1).found] == [CAT]
    late = add(system, ALICE, "A note that the old model cannot embed.")
    assert system.outbox.size() == 1
    while system.indexer._poll()[0]:
        pass
    assert system.outbox.size() == 0
    assert dense(system)
    assert len(system.index.ids_of(OWNERS[0], "turn")) == 72
    assert system.vault.get(ALICE, late)


def test_the_indexers_thread_does_the_change_and_questions_are_answered_meanwhile(start) -> None:
    system, _ = built_by(start)
    old = system.embedder.signature
    system.indexer.start()
    deadline = time.monotonic() + 60
    unanswered = 0
    while system.embedder.signature == old and time.monotonic() < deadline:
        unanswered += not dense(system)
    assert unanswered <= 1  # the question that the switch overtakes
    assert system.embedder.signature != old
    assert dense(system)
    assert INDEX_CHANGE_ITEMS._value.get() == 0


def test_a_question_embedded_before_the_switch_is_not_compared_with_the_new_vectors(start) -> None:
    system, _ = built_by(start)
    vector = asyncio.run(system.embed_question(ALICE, "cat"))
    finish(system)
    result = system.search(ALICE, "cat", vector, 3)
    assert [hit.recalled.item.text for hit in result.found] == [CAT]  # by its word
    assert "dense_turn" not in result.found[0].signals
    assert result.degraded == "index"


def test_an_index_without_a_record_of_its_embedder_is_served_by_its_signature(start) -> None:
    """Versions before this one stored the signature alone."""
    system = start("old", passage_prefix=None)
    add(system, ALICE, CAT)
    system.outbox.set_index_signature(system.indexer.signature)
    old = system.embedder.signature
    system = start("new")
    assert system.embedder.signature == old
    assert dense(system)
    finish(system)
    assert dense(system)


def test_vectors_of_the_layout_before_serve_until_they_are_replaced(start) -> None:
    system = start("old")
    add(system, ALICE, CAT)
    signature = system.indexer.signature
    former = signature.replace(LAYOUT, READABLE_LAYOUTS[-1])
    assert former != signature
    system.outbox.set_index_signature(former)
    system = start("old")
    assert dense(system)
    assert system.outbox.index_signature() == former
    finish(system)
    assert system.outbox.index_signature() == signature
    assert dense(system)
    assert len(collections(system)) == 1


def test_doctor_shows_the_progress(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedder_change, "_RECORD_SECONDS", 0.0)
    system, _ = built_by(start)

    def shown() -> str:
        return next(c.found for c in check_memory(system) if c.subject == "index work")

    assert "no item yet" in shown()
    system.indexer._check_signature()
    system.indexer._check_signature()
    assert "64 of 72 items" in shown() or "32 of 72 items" in shown()
    finish(system)
    assert shown() == "no changes to index"
