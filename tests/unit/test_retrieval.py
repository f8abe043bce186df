"""Chunking, fusion, lexical search, and the whole search over real Chroma and a real embedder."""

from __future__ import annotations

import asyncio
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.config import RetrievalWeights
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.errors import EmbedderUnavailable, IndexUnavailable
from memos_vllm.governance.principal import Role
from memos_vllm.operator.chroma import VIEWS, VectorIndex
from memos_vllm.operator.chunking import passages
from memos_vllm.operator.fusion import fuse, min_max, without_names
from memos_vllm.operator.lexical import OwnerIndex, tokenize
from memos_vllm.system import MemorySystem
from memos_vllm.vault.items import IndexedItem, Owner
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


def indexed(*turns: str, speaker: str | None = None, session: str = "s") -> list[IndexedItem]:
    return [
        IndexedItem(f"i{n}", "c", turn, turn, speaker, session, None)
        for n, turn in enumerate(turns)
    ]


def test_bm25_finds_a_word_and_ignores_what_it_has_never_seen():
    index = OwnerIndex.build(1, indexed("the boats are blue", "a red car", "walking home"))
    assert int(np.argmax(index.turn_scores(tokenize("blue boat")))) == 0
    assert not index.turn_scores(tokenize("zzz the")).any()
    assert OwnerIndex.build(1, indexed("the", "of")).turn_scores(["x"]).shape == (2,)


def test_min_max_is_zero_to_one_and_tells_nothing_from_nothing():
    scores = np.array([2.0, np.nan, 4.0], dtype=np.float32)
    assert min_max(scores).tolist() == [0.0, 0.0, 1.0]
    assert min_max(np.zeros(3, dtype=np.float32)).tolist() == [0.0, 0.0, 0.0]
    assert min_max(np.full(2, np.nan, dtype=np.float32)).tolist() == [0.0, 0.0]


def test_lifts_prefer_the_named_speaker_and_the_good_session():
    items = [
        IndexedItem("a", "c", "x", "x", "Ann", "one", None),
        IndexedItem("b", "c", "x", "x", "Ben", "one", None),
        IndexedItem("c", "c", "x", "x", "Ann", "two", None),
    ]
    flat = {"lexical_turn": np.array([1.0, 1.0, 1.0], dtype=np.float32)}
    only_speaker = RetrievalWeights(session_prior=0.0)
    assert np.argmax(fuse("What did Ben say?", items, flat, only_speaker)) == 1
    uneven = {"lexical_turn": np.array([1.0, 0.9, 0.9], dtype=np.float32)}
    only_session = RetrievalWeights(speaker_boost=0.0)
    fused = fuse("What?", items, uneven, only_session)
    assert fused[1] > fused[2]


def test_names_of_speakers_are_left_out_of_the_embedded_question():
    question = "What did Ann's sister tell Ben?"
    assert without_names(question, {"Ann", "Ben B"}) == "What did sister tell ?"
    assert without_names("Annual report?", {"Ann"}) == "Annual report?"
    assert without_names("Ann?", {"Ann"}) == "Ann?"
    assert without_names("Who?", set()) == "Who?"


def remember(system: MemorySystem, who, *texts: str, **meta) -> str:
    content = [Item(text=text) for text in texts]
    cube = NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))
    return system.create(who, [cube])[0].meta.id


def found(system: MemorySystem, who, question: str, top_k: int = 5) -> list[str]:
    vector = asyncio.run(system.embed_question(who, question))
    result = system.search(who, question, vector, top_k)
    return [hit.recalled.item.text for hit in result.found]


def test_search_finds_words_and_meanings_and_the_tenants_memory_too(system):
    remember(system, ALICE, "My kitten is called Miso.", "I work as a carpenter.")
    remember(system, principal("", role=Role.ADMIN), "The office opens at nine.", shared=True)
    assert found(system, ALICE, "kitten")[0] == "My kitten is called Miso."
    assert found(system, ALICE, "What is my job?")[0] == "I work as a carpenter."
    assert "The office opens at nine." in found(system, ALICE, "When does the office open?")
    assert found(system, BOB, "When does the office open?") == ["The office opens at nine."]


def test_what_has_nothing_to_do_with_the_question_is_left_out(system):
    remember(system, ALICE, "My kitten is called Miso.")
    assert found(system, ALICE, "qwertz 12345 zxcvb") == []


def test_only_the_newest_version_is_found(system):
    cube = remember(system, ALICE, "My phone number is 111.")
    patch = CubePatch(payload=ExplicitPayload(content=[Item(text="My phone number is 222.")]))
    system.update(ALICE, cube, patch)
    assert found(system, ALICE, "phone number") == ["My phone number is 222."]
    system.rollback(ALICE, cube, system.vault.history(ALICE, cube)[-1].id)
    assert found(system, ALICE, "phone number") == ["My phone number is 111."]


def test_a_filter_that_is_dropped_leaks_nothing(system):
    """The owner filter is the first barrier; without it the vault is still the second."""
    for number in range(30):
        remember(system, principal(f"person-{number}"), f"Secret number {number} is hidden.")
    remember(system, ALICE, "My own note about a hidden secret.")
    real = VectorIndex.query

    def without_filter(self, owner, view, vector, count):
        hits = []
        for number in range(30):
            other = Owner(TenantId("acme"), PersonId(f"person-{number}"))
            hits += real(self, other, view, vector, count)
        return hits + real(self, owner, view, vector, count)

    with mock.patch.object(VectorIndex, "query", without_filter):
        assert found(system, ALICE, "secret number hidden") == [
            "My own note about a hidden secret."
        ]


def test_deleting_takes_the_vectors_along(system):
    cube = remember(system, ALICE, "one fact", "another fact")
    owner = Owner(ALICE.tenant, ALICE.person)
    assert all(len(system.index.ids_of(owner, view)) == 2 for view in VIEWS)
    system.delete(ALICE, cube)
    assert all(system.index.ids_of(owner, view) == set() for view in VIEWS)
    assert found(system, ALICE, "fact") == []


def test_vault_and_index_agree_after_a_kill_between_them(config):
    """The process dies after the vault's commit and before Chroma's: the next one does the work."""
    first = MemorySystem(config).open()
    with (
        mock.patch.object(VectorIndex, "upsert", side_effect=KeyboardInterrupt),
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


def test_a_write_is_kept_while_chroma_is_down_and_forgetting_needs_no_embedder(system):
    with mock.patch.object(VectorIndex, "upsert", side_effect=IndexUnavailable("down")):
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


def test_questions_are_cached_for_their_asker_alone(system):
    async def ask() -> None:
        await system.embed_question(ALICE, "Where is it?")
        await system.embed_question(ALICE, "Where is it?")
        await system.embed_question(BOB, "Where is it?")

    with mock.patch.object(
        type(system.embedder), "_encode", autospec=True, side_effect=type(system.embedder)._encode
    ) as encode:
        asyncio.run(ask())
    assert encode.call_count == 2


def test_questions_asked_at_once_are_embedded_together(tmp_path):
    system = MemorySystem(make_config(tmp_path, embedder={"batch_wait_ms": 300})).open()
    system.embedder.warm()

    async def ask() -> list[np.ndarray]:
        return await asyncio.gather(
            *(system.embed_question(principal(f"p{n}"), f"question {n}") for n in range(8))
        )

    real = type(system.embedder)._encode
    with mock.patch.object(
        type(system.embedder), "_encode", autospec=True, side_effect=real
    ) as encode:
        vectors = asyncio.run(ask())
    assert encode.call_count <= 2
    alone = system.embedder.embed(["question 3"])
    assert np.allclose(vectors[3], alone[0], atol=1e-4)
    system.close()


def test_one_process_at_a_time_uses_the_embedded_store(config):
    first, second = VectorIndex(config), VectorIndex(config)
    assert first.claim()
    assert not second.claim()
    first.close()
    assert second.claim()
    second.close()


@pytest.mark.slow
def test_no_bucket_loses_vectors_when_all_of_them_are_open(config):
    """Chroma 1.5 answers with errors for indexes that it evicted; so it must never evict one."""
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
