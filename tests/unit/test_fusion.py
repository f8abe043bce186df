"""Tokens, BM25, and score fusion."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock

import bm25s
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.config.retrieval import RetrievalWeights
from memos_vllm.cube.ids import to_us
from memos_vllm.cube.model import CubePatch, ExplicitPayload, Item, NewCube, NewMeta, State
from memos_vllm.plaintext.embed.model import Background
from memos_vllm.plaintext.search import bm25, owner_index
from memos_vllm.plaintext.search.fusion import (
    fuse,
    min_max,
    session_scores,
    signals_of,
    standing,
    without_names,
)
from memos_vllm.plaintext.search.owner_index import LexicalCache, OwnerIndex, Part
from memos_vllm.plaintext.search.part_arrays import arrays_of
from memos_vllm.plaintext.tokens import tokenize
from memos_vllm.vault.items import IndexedItem, PartKey
from tests.conftest import principal

ALICE = principal("alice")


def indexed(*turns: str, speaker: str | None = None, session: str = "s") -> list[IndexedItem]:
    return [IndexedItem(f"i{n}", "c", turn, speaker, session, None) for n, turn in enumerate(turns)]


def index_of(items: list[IndexedItem]) -> OwnerIndex:
    return OwnerIndex.build(1, [Part.of(PartKey("c", "1", None), items)])


def test_bm25_finds_a_word_and_ignores_unknown_words():
    index = index_of(indexed("the boats are blue", "a red car", "walking home"))
    assert int(np.argmax(index.lexical(tokenize("blue boat"))["lexical_turn"])) == 0
    for scores in index.lexical(tokenize("zzz the")).values():
        assert not scores.any()
    for scores in index_of(indexed("the", "of")).lexical(["x"]).values():
        assert scores.shape == (2,)


def test_min_max_is_zero_to_one_and_flat_for_equal_scores():
    scores = np.array([2.0, np.nan, 4.0], dtype=np.float32)
    assert min_max(scores).tolist() == [0.0, 0.0, 1.0]
    assert min_max(np.zeros(3, dtype=np.float32)).tolist() == [0.0, 0.0, 0.0]
    assert min_max(np.full(2, np.nan, dtype=np.float32)).tolist() == [0.0, 0.0]


def score(
    items: list[IndexedItem], question: str, lexical: list[float], **weights: float
) -> list[float]:
    """Fused scores of items with these lexical scores; only the lexical weight and the given ones are set."""
    every = dict.fromkeys(RetrievalWeights.model_fields, 0.0) | {"lexical_turn": 1.0} | weights
    index = index_of(items)
    channels = {
        "lexical_turn": np.array(lexical, dtype=np.float32),
        "coverage": index.lexical(tokenize(question))["coverage"],
    }
    fused = fuse(signals_of(question, index, channels), RetrievalWeights(**every))
    return [round(float(one), 3) for one in fused]


def item(
    name: str, turn: str, speaker: str | None = None, session: str = "s", when: str | None = None
) -> IndexedItem:
    moment = to_us(datetime.fromisoformat(when).replace(tzinfo=UTC)) if when else None
    return IndexedItem(name, "c", turn, speaker, session, moment)


def test_lifts_prefer_the_named_speaker_and_the_good_session():
    items = [
        item("a", "x", "Ann", "one"),
        item("b", "x", "Ben", "one"),
        item("c", "x", "Ann", "two"),
        item("d", "x", None, "two"),
    ]
    flat = [1.0, 1.0, 1.0, 1.0]
    assert score(items, "What did Ben say?", flat, speaker_boost=0.2) == [1.0, 1.2, 1.0, 1.0]
    assert score(items, "What did Ben tell Ann?", flat, speaker_boost=0.2) == flat
    uneven = score(items, "Which x?", [1.0, 0.9, 0.9, 0.0], session_prior=0.2)
    assert uneven[1] > uneven[2]


def test_a_date_in_the_question_lifts_items_of_that_date_and_drops_none():
    items = [
        item("same day", "x", when="2023-05-08"),
        item("same month", "x", when="2023-05-30"),
        item("next month", "x", when="2023-06-08"),
        item("no time", "x"),
    ]
    flat = [1.0] * 4
    lifted = score(items, "Where were we on 8 May 2023?", flat, time_boost=1.0)
    assert lifted == [2.0, 1.6, 1.2, 1.0]
    assert score(items, "Where may we go?", flat, time_boost=1.0) == flat


def test_a_question_for_a_time_lifts_items_that_name_one():
    items = [item("a", "We met yesterday."), item("b", "We met there.")]
    assert score(items, "When did we meet?", [1.0, 1.0], when_boost=0.5) == [1.5, 1.0]
    assert score(items, "Where did we meet?", [1.0, 1.0], when_boost=0.5) == [1.0, 1.0]


def test_questions_among_the_items_rank_behind_their_answers():
    items = [item("a", "Ann: Was it fun? [shares an image: a dog]"), item("b", "Ben: It was fun.")]
    assert score(items, "fun", [1.0, 1.0], question_penalty=0.5) == [0.5, 1.0]


def test_coverage_is_the_share_of_the_question_in_an_item_and_near_it():
    items = [
        item("a", "a red boat", "Ann", "one"),
        item("b", "the old harbour", "Ben", "one"),
        *(item(f"c{n}", "walking home", "Ann", "two") for n in range(4)),
        item("d", "a red car", None, "three"),
    ]
    found = index_of(items).lexical(tokenize("red harbour"))
    assert found["near_coverage"][0] == found["near_coverage"][1] == 1.0
    assert 0 < found["coverage"][6] < found["coverage"][1] < 1.0, "a rarer word counts more"
    assert found["coverage"][3] == 0.0


def test_a_weak_match_is_no_full_score_because_it_is_the_best():
    items = index_of([item("a", "we like to talk"), item("b", "nothing here"), item("c", "more")])
    weak = items.lexical(tokenize("talk about quantum chromodynamics lattices"))
    strong = items.lexical(tokenize("talk"))
    for name in ("lexical_turn", "coverage"):
        assert weak[name].max() < 0.4 * strong[name].max()


def test_meaning_decides_where_the_words_of_the_question_match_nothing():
    background = Background(0.5, 0.05)
    cosines = np.array([0.5, 0.8, 0.5], dtype=np.float32)
    items = [item("a", "red boat"), item("b", "blue car"), item("c", "walking home")]
    index = index_of(items)

    def best(question: str) -> int:
        channels = index.lexical(tokenize(question)) | {"dense_turn": cosines}
        return int(
            np.argmax(fuse(signals_of(question, index, channels, background), RetrievalWeights()))
        )

    assert best("something else entirely") == 1
    assert best("red boat") == 0


def test_the_standing_of_a_cosine_is_measured_from_unrelated_texts():
    few = standing(np.array([0.8], dtype=np.float32), Background(0.5, 0.05))
    assert few[0] > 3, "one item alone says nothing about what is usual"
    assert abs(standing(np.array([0.5] * 5, dtype=np.float32), Background(0.5, 0.05))).max() < 0.1
    usual = standing(np.full(500, 0.8, dtype=np.float32), Background(0.5, 0.05))
    assert abs(usual).max() < 1, "where all items are close to the question, none stands out"
    with_gap = standing(np.array([0.9, np.nan], dtype=np.float32), Background(0.5, 0.05))
    assert with_gap[1] == 0
    assert with_gap[0] > 0


def test_replies_rank_behind_the_person_s_words_unless_they_are_asked_for():
    items = [item("a", "try green tea", "assistant"), item("b", "I drink green tea", "alice")]
    weights = {"reply_penalty": 0.5, "reply_boost": 0.5}
    assert score(items, "Which tea do I drink?", [1.0, 1.0], **weights) == [0.5, 1.0]
    assert score(items, "Which tea did you recommend?", [1.0, 1.0], **weights) == [1.0, 1.0]


def test_behind_the_best_five_come_the_neighbours_of_the_best_match_by_words_or_meaning():
    best = [item(f"best {n}", "x", session=f"of best {n}") for n in range(4)]
    lone = [item(f"lone {n}", "x", session=f"of lone {n}") for n in range(3)]
    beside = [item("match", "x", session="good"), item("beside", "x", session="good")]
    items = [*best, *lone, *beside]
    lexical = [2.0, 2.0, 2.0, 2.0, 0.53, 0.52, 0.51, 3.0, 0.4]

    def order(items: list[IndexedItem], lexical: list[float], question: str = "y") -> list[str]:
        scores = score(items, question, lexical)
        assert sorted(scores) == sorted(round(one, 3) for one in lexical), "a score for each place"
        return [items[n].id for n in np.argsort(-np.array(scores), kind="stable")]

    found = order(items, lexical)
    assert found[:5] == ["match", "best 0", "best 1", "best 2", "best 3"], "their places stay"
    assert found[5] == "beside", "weaker alone than the lone ones"
    replies = [*best, *lone, item("reply", "x", "assistant", "good"), beside[1]]
    assert order(replies, lexical)[5] == "lone 0", "a reply's words lift nothing"
    assert order([], []) == []


def test_meaning_of_a_neighbour_decides_behind_the_best_where_no_word_matches():
    items = [item(f"i{n}", "x", session=str(n)) for n in range(7)] + [item("i7", "x", session="0")]
    index = index_of(items)
    channels = index.lexical(tokenize("unknown"))
    cosines = np.array([0.9, 0.8, 0.8, 0.8, 0.8, 0.61, 0.6, 0.59], dtype=np.float32)
    channels |= {"dense_turn": cosines}
    signals = signals_of("unknown", index, channels, Background(0.5, 0.05))
    scores = fuse(signals, RetrievalWeights())
    assert np.argsort(-scores, kind="stable").tolist() == [0, 1, 2, 3, 4, 7, 5, 6]


def test_coverage_counts_words_of_neighbours_but_not_of_another_cube():
    items = [
        IndexedItem(str(n), cube, turn, "Ann", None, None)
        for n, (cube, turn) in enumerate(
            [("a", "a red boat"), ("a", "oh"), ("a", "yes"), ("a", "no"), ("b", "a blue boat")]
        )
    ]
    index = index_of(items)
    assert index.lexical(tokenize("red"))["near_coverage"].tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    both = index.lexical(tokenize("Ann, red zebra"))["near_coverage"]
    assert 0 < both[1] < 1
    assert both[4] == 0
    assert not index.lexical([])["near_coverage"].any()


def test_irregular_forms_and_their_verbs_are_one_token():
    assert tokenize("went bought children") == tokenize("go buy child")


def test_session_scores_are_means_of_the_best_three_scaled():
    sessions = np.array([0, 1, 0, 0, 0, 1])
    scores = np.array([0.9, 0.5, 0.6, 0.3, 0.0, 0.1], dtype=np.float32)
    assert session_scores(sessions, scores).round(3).tolist() == [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]


def test_the_embedded_question_has_no_speakers_names():
    question = "What did Ann's sister tell Ben?"
    assert without_names(question, {"Ann", "Ben B"}) == "What did sister tell ?"
    assert without_names("Annual report?", {"Ann"}) == "Annual report?"
    assert without_names("Ann?", {"Ann"}) == "Ann?"
    assert without_names("Who?", set()) == "Who?"


TEXTS = st.lists(
    st.lists(st.sampled_from(["boat", "red", "car", "harbour", "the", "Ann:"]), max_size=9).map(
        " ".join
    ),
    max_size=12,
)


@given(st.lists(TEXTS, max_size=4), st.lists(st.sampled_from(["boat", "red", "car", "fog"])))
@settings(max_examples=100, deadline=None)
def test_scores_equal_those_of_bm25s_for_any_split_into_cubes(cubes, asked):
    parts, turns, windows = [], [], []
    for number, texts in enumerate(cubes):
        items = [
            IndexedItem(f"{number}-{n}", f"c{number}", text, None, None, None)
            for n, text in enumerate(texts)
        ]
        parts.append(Part.of(PartKey(f"c{number}", "1", None), items))
        turns += texts
        windows += [" ".join(texts[max(0, n - 1) : n + 1]) for n in range(len(texts))]
    index = OwnerIndex.build(1, parts).bm25
    postings = [index.postings(word) for word in tokenize(" ".join(asked))]
    assert np.allclose(index.turn_scores(postings), bm25s_scores(turns, asked), atol=1e-5)
    assert np.allclose(index.window_scores(postings), bm25s_scores(windows, asked), atol=1e-5)


def bm25s_scores(texts: list[str], asked: list[str]) -> np.ndarray:
    tokens = [tokenize(text) for text in texts]
    if not any(tokens):
        return np.zeros(len(texts), dtype=np.float32)
    index = bm25s.BM25(method="lucene")
    index.index(tokens, show_progress=False)
    known = [word for word in tokenize(" ".join(asked)) if word in index.vocab_dict]
    return index.get_scores(known) if known else np.zeros(len(texts), dtype=np.float32)


def cube(*texts: str, tags: tuple[str, ...] = ()) -> NewCube:
    payload = ExplicitPayload(content=[Item(text=text) for text in texts])
    return NewCube(meta=NewMeta(tags=list(tags)), payload=payload)


def test_of_a_changed_cube_only_the_new_texts_are_tokenized(system):
    """A turn that is appended to a long conversation costs its own text."""
    cache = LexicalCache(system.views.owner_cubes, 8)

    def tokenized() -> list[str]:
        (state,) = system.views.owners(ALICE)
        with mock.patch.object(bm25, "tokenize", side_effect=tokenize) as read:
            found = cache.get(state.owner, state.revision)
        texts = [call.args[0] for call in read.call_args_list]
        fresh = LexicalCache(system.views.owner_cubes, 8).get(state.owner, state.revision)
        for made, expected in zip(found.parts.values(), fresh.parts.values(), strict=True):
            for name, array in arrays_of(expected).items():
                assert np.array_equal(arrays_of(made)[name], array), name
        return texts

    made = system.create(ALICE, [cube("a red boat", "which one?", "!", "in May")])[0].meta.id
    assert len(tokenized()) == 4
    system.update(ALICE, made, CubePatch(append=[Item(text="two boats"), Item(text="in May")]))
    assert tokenized() == ["two boats"]
    items = [Item(text="two boats"), Item(text="a green boat"), Item(text="which one?")]
    system.update(ALICE, made, CubePatch(payload=ExplicitPayload(content=items)))
    assert tokenized() == ["a green boat"]


def test_after_a_change_only_the_cubes_that_changed_are_read(system):
    cache = LexicalCache(system.views.owner_cubes, 8)

    def index() -> tuple[list[str], int]:
        """Indexed texts, and the number of cubes read for them."""
        (state,) = system.views.owners(ALICE)
        with mock.patch.object(owner_index.Part, "of", side_effect=Part.of) as read:
            found = cache.get(state.owner, state.revision)
        fresh = LexicalCache(system.views.owner_cubes, 8).get(state.owner, state.revision)
        assert found.items == fresh.items
        asked = tokenize("red boats")
        for name, scores in fresh.lexical(asked).items():
            assert np.array_equal(found.lexical(asked)[name], scores), name
        return [item.text for item in found.items], read.call_count

    one, two = system.create(ALICE, [cube("a red boat", "oh"), cube("walking home")])
    assert index() == (["a red boat", "oh", "walking home"], 2)
    system.create(ALICE, [cube("red cars")])
    assert index() == (["a red boat", "oh", "walking home", "red cars"], 1)
    system.update(ALICE, one.meta.id, CubePatch(append=[Item(text="two boats")]))
    assert index() == (["a red boat", "oh", "two boats", "walking home", "red cars"], 1)
    system.update(ALICE, two.meta.id, CubePatch(state=State.ARCHIVED))
    assert index() == (["a red boat", "oh", "two boats", "red cars"], 0)
    system.update(ALICE, two.meta.id, CubePatch(state=State.ACTIVATED))
    assert index()[1] == 1
    system.delete(ALICE, one.meta.id)
    assert index() == (["walking home", "red cars"], 0)
    system.update(ALICE, two.meta.id, CubePatch(tags=["persona:chef"]))
    assert index()[1] == 1
    (state,) = system.views.owners(ALICE)
    assert cache.get(state.owner, state.revision).elsewhere(None)
