"""Chunking, and the whole search over real Chroma and a real embedder."""

from __future__ import annotations

import asyncio
import time
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import EmbedderUnavailable, IndexUnavailable
from memos_vllm.governance.principal import Role
from memos_vllm.plaintext.reader.chunking import passages
from memos_vllm.plaintext.search.search import MemOperator
from memos_vllm.plaintext.search.vector_store import VIEWS, VectorIndex
from memos_vllm.system import MemorySystem
from memos_vllm.vault.items import Owner
from tests.conftest import make_config, principal

ALICE, BOB = principal("alice"), principal("bob")


def words(text: str) -> int:
    return len(text.split())


@given(
    st.lists(st.sampled_from(["word", "Ends.", "?", "\n\n", "x" * 90, "Ünï"]), max_size=60),
    st.integers(1, 9),
)
@settings(max_examples=150, deadline=None)
def test_passages_keep_every_word_in_order_and_their_limit(pieces, limit):
    def count(text: str) -> int:
        return sum(-(-len(word) // 30) for word in text.split())  # long words are several tokens

    text = " ".join(pieces)
    found = passages(text, limit, count)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(count(passage) <= limit for passage in found)
    assert all(passage.strip() == passage and passage for passage in found)


def test_passages_end_at_sentences_where_they_can():
    text = "One two three. Four five six. Seven eight nine."
    assert passages(text, 6, words) == ["One two three. Four five six.", "Seven eight nine."]


def remember(system: MemorySystem, who, *texts: str, **meta) -> str:
    content = [Item(text=text) for text in texts]
    cube = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))
    return system.create(who, [cube])[0].meta.id


def found(system: MemorySystem, who, question: str, top_k: int = 5) -> list[str]:
    vector = asyncio.run(system.embed_question(who, question))
    result = system.search(who, question, vector, top_k)
    return [hit.recalled.item.text for hit in result.found]


def test_search_finds_words_and_meanings_in_own_and_tenant_memory(system):
    remember(system, ALICE, "My kitten is called Miso.", "I work as a carpenter.")
    remember(system, principal("", role=Role.ADMIN), "The office opens at nine.", shared=True)
    assert found(system, ALICE, "kitten")[0] == "My kitten is called Miso."
    assert found(system, ALICE, "What is my job?")[0] == "I work as a carpenter."
    assert "The office opens at nine." in found(system, ALICE, "When does the office open?")
    assert found(system, BOB, "When does the office open?") == ["The office opens at nine."]


def test_irrelevant_items_are_left_out(system):
    remember(system, ALICE, "My kitten is called Miso.")
    assert found(system, ALICE, "qwertz 12345 zxcvb") == []


def test_only_the_newest_version_is_found(system):
    cube = remember(system, ALICE, "My phone number is 111.")
    patch = CubePatch(payload=ExplicitPayload(content=[Item(text="My phone number is 222.")]))
    system.update(ALICE, cube, patch)
    assert found(system, ALICE, "phone number") == ["My phone number is 222."]
    system.rollback(ALICE, cube, system.vault.history(ALICE, cube)[-1].id)
    assert found(system, ALICE, "phone number") == ["My phone number is 111."]


def test_a_dropped_owner_filter_leaks_nothing(tmp_path):
    """The owner filter is the first barrier; without it the vault is still the second."""
    system = MemorySystem(make_config(tmp_path, retrieval={"vector_cache_bytes": 0})).open()
    for number in range(30):
        remember(system, principal(f"person-{number}"), f"Secret number {number} is hidden.")
    remember(system, ALICE, "My own note about a hidden secret.")
    real = VectorIndex.query

    def without_filter(self, owner, view, vector, count, cubes=None):
        hits = []
        for number in range(30):
            other = Owner(TenantId("acme"), PersonId(f"person-{number}"))
            hits += real(self, other, view, vector, count)
        return hits + real(self, owner, view, vector, count)

    with mock.patch.object(VectorIndex, "query", without_filter):
        assert found(system, ALICE, "secret number hidden") == [
            "My own note about a hidden secret."
        ]
    system.close()


def test_vectors_are_read_from_chroma_once_and_then_only_the_changed_ones(system):
    cube = remember(system, ALICE, "A red boat.", "A blue car.", "A green hat.")
    real, asked = VectorIndex.vectors, []

    def counted(self, owner, view, ids):
        asked.append((view, len(ids)))
        return real(self, owner, view, ids)

    with mock.patch.object(VectorIndex, "vectors", counted):
        assert found(system, ALICE, "ship")[0] == "A red boat."
        assert found(system, ALICE, "automobile")[0] == "A blue car."
        assert asked == [("turn", 3)]
        asked.clear()
        system.update(ALICE, cube, CubePatch(append=[Item(text="A yellow submarine.")]))
        assert "A yellow submarine." in found(system, ALICE, "a vessel under water")
        assert asked == [("turn", 1)]


def test_an_item_is_found_by_meaning_once_it_is_indexed(system):
    remember(system, ALICE, "A red boat.")
    with mock.patch.object(VectorIndex, "upsert_all", side_effect=IndexUnavailable("down")):
        remember(system, ALICE, "My kitten is called Miso.")
    assert "My kitten is called Miso." not in found(system, ALICE, "pet cat")
    system.indexer.drain()
    time.sleep(1.1)
    assert found(system, ALICE, "pet cat")[0] == "My kitten is called Miso."


def test_exact_search_and_search_in_chroma_agree(tmp_path):
    system = MemorySystem(make_config(tmp_path)).open()
    remember(system, ALICE, *(f"Fact {n} is about {w}." for n, w in enumerate(["tea", "rain"] * 9)))
    config = system.config.retrieval.model_copy(update={"vector_cache_bytes": 0})
    asking = MemOperator(config, system.views, system.index)
    vector = asyncio.run(system.embed_question(ALICE, "weather"))
    cached = system.search(ALICE, "weather", vector, 18).found
    asked = asking.search(ALICE, "weather", vector, 18).found
    by_id = {hit.recalled.item.id: hit.score for hit in asked}
    assert {hit.recalled.item.id: hit.score for hit in cached} == pytest.approx(by_id, abs=2e-3)
    system.close()


def test_deleting_a_cube_deletes_its_vectors(system):
    cube = remember(system, ALICE, "one fact", "another fact")
    owner = Owner(ALICE.tenant, ALICE.person)
    assert all(len(system.index.ids_of(owner, view)) == 2 for view in VIEWS)
    system.delete(ALICE, cube)
    assert all(system.index.ids_of(owner, view) == set() for view in VIEWS)
    assert found(system, ALICE, "fact") == []


def test_vault_and_index_agree_after_a_kill_between_them(config):
    """The process dies between the vault's and Chroma's commit: the next one indexes the rest."""
    first = MemorySystem(config).open()
    with (
        mock.patch.object(VectorIndex, "upsert_all", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        remember(first, ALICE, "Survives the kill.")
    first.close()
    second = MemorySystem(config).open()
    owner = Owner(ALICE.tenant, ALICE.person)
    assert second.outbox.size() == 1
    assert second.index.ids_of(owner, "turn") == set()
    second.indexer.drain()
    assert second.outbox.size() == 0
    assert len(second.index.ids_of(owner, "turn")) == 1
    assert found(second, ALICE, "kill") == ["Survives the kill."]
    second.close()


def test_reindex_rebuilds_chroma_from_the_vault(system):
    remember(system, ALICE, "Rebuilt from the vault.", "And this.")
    owner = Owner(ALICE.tenant, ALICE.person)
    before = system.index.ids_of(owner, "turn")
    system.index.clear()
    assert system.index.ids_of(owner, "turn") == set()
    steps: list[tuple[int, int]] = []
    assert system.indexer.rebuild(lambda done, total: steps.append((done, total))) == 2
    assert system.index.ids_of(owner, "turn") == before
    assert steps[-1] == (2, 2)


def test_a_write_succeeds_while_chroma_is_down_and_forgetting_needs_no_embedder(system):
    with mock.patch.object(VectorIndex, "upsert_all", side_effect=IndexUnavailable("down")):
        cube = remember(system, ALICE, "Written while Chroma was down.")
    assert system.vault.get(ALICE, cube).payload.content
    result = system.search(ALICE, "Chroma down", None, 5)
    assert [hit.recalled.item.text for hit in result.found] == ["Written while Chroma was down."]
    with mock.patch.object(
        type(system.embedder), "embed", side_effect=EmbedderUnavailable("broken")
    ):
        _, settled = system.delete(ALICE, cube)
    assert settled


def test_long_text_is_cut_by_tokens_and_its_end_is_found(tmp_path):
    system = MemorySystem(make_config(tmp_path, limits={"chunk_tokens": 64})).open()
    filler = "The harbour was quiet and the gulls were circling above the pier. " * 40
    cube = system.create(
        ALICE,
        [NewCube(payload=ExplicitPayload(content=filler + "The lighthouse keeper is Ingrid."))],
    )[0]
    assert len(cube.payload.content) > 5
    assert all(system.embedder.count_tokens(item.text) <= 64 for item in cube.payload.content)
    assert "Ingrid" in found(system, ALICE, "Who keeps the lighthouse?")[0]
    system.close()


def test_a_text_longer_than_the_models_window_counts_to_its_end(system):
    long = "Nothing to see here. " * 150
    plain = system.embedder.embed([long])
    ending = system.embedder.embed([long + "Zebras live in Africa. " * 20])
    assert float(plain[0] @ ending[0]) < 0.99
    assert np.allclose(np.linalg.norm(ending, axis=1), 1, atol=1e-5)


def test_one_process_at_a_time_uses_the_embedded_store(config):
    first, second = VectorIndex(config), VectorIndex(config)
    assert first.claim()
    assert not second.claim()
    first.close()
    assert second.claim()
    second.close()


@pytest.mark.slow
def test_no_bucket_loses_vectors_when_all_of_them_are_open(config):
    """Chroma 1.5 returns errors for evicted indexes, so none may be evicted."""
    index, rng = VectorIndex(config), np.random.default_rng(0)
    owners = [Owner(TenantId("t"), PersonId(f"p{n}")) for n in range(300)]
    vectors = rng.normal(size=(300, 2, 384)).astype(np.float32)
    for n, owner in enumerate(owners):
        ids = [f"{n}-0", f"{n}-1"]
        index.upsert(owner, "c", ids, dict.fromkeys(VIEWS, vectors[n]))
    for _ in range(2):
        for n, owner in enumerate(owners):
            for view in VIEWS:
                hits = index.query(owner, view, vectors[n][1], 2)
                assert [item for item, _ in hits] == [f"{n}-1", f"{n}-0"]
    index.close()


def test_a_changed_embedder_rebuilds_the_index(config):
    system = MemorySystem(config).open()
    remember(system, ALICE, "Indexed by the old model.")
    system.outbox.set_index_signature("another model")
    system.indexer._check_signature()
    assert system.outbox.index_signature() == system.indexer.signature
    assert found(system, ALICE, "old model") == ["Indexed by the old model."]
    system.close()


def test_a_search_beside_a_write_finds_what_is_complete(system):
    """Chroma returns fewer vectors than ids while it writes a row."""
    remember(system, ALICE, "A red boat.", "A blue car.")
    collection = system.index._collection(Owner(ALICE.tenant, ALICE.person), "turn")
    real, asked = type(collection).get, []

    def half_written(self, *args, **kwargs):
        found = real(self, *args, **kwargs)
        asked.append(found)
        if "embeddings" in kwargs.get("include", ()) and len(asked) < 3:
            found["embeddings"] = found["embeddings"][:-1]
        return found

    with mock.patch.object(type(collection), "get", half_written):
        assert found(system, ALICE, "ship")[0] == "A red boat."
    assert len(asked) == 3
    asked.clear()
    system.operator = MemOperator(system.config.retrieval, system.views, system.index)
    with mock.patch.object(
        type(collection), "get", lambda self, *a, **k: real(self, *a, **k) | {"embeddings": []}
    ):
        assert found(system, ALICE, "red")[0] == "A red boat.", "by words"


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("My cat is called Miso.", "What is the name of my cat?"),
        ("Meine Katze heißt Minka.", "wie heißt meine katze?"),
        ("我的猫叫小白。", "我的猫叫什么名字？"),
    ],
)
def test_earlier_askings_come_behind_what_says_something(system, said, asked):
    remember(system, ALICE, said)
    for _ in range(20):
        remember(system, ALICE, asked)
    texts = found(system, ALICE, asked)
    assert texts[0] == said
    assert set(texts[1:]) == {asked}, "they are found, but last"
    assert said in found(system, ALICE, asked.rstrip("?？"), top_k=2), "without its mark"


def test_words_that_stand_twice_take_one_place_before_all_others(system):
    remember(system, ALICE, "A red boat.", "A red boat.", "A red car.", "The boat is old.")
    texts = found(system, ALICE, "red boat")
    assert texts.index("A red boat.") == 0
    assert texts[-1] == "A red boat."
    assert found(system, ALICE, "A red boat.")[0] == "A red boat.", "a statement is no asking"
