"""The classifier's features, its sentences, and the choice of weights by what the embedder does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from memos_vllm.cube.model import Claim, Item, ItemType, Standing
from memos_vllm.plaintext.claims.change import PairJudge
from memos_vllm.plaintext.claims.standing import choose, standing_of
from memos_vllm.plaintext.claims.subjects import relatives, tells_change
from memos_vllm.plaintext.statements.features import content, grams, words
from memos_vllm.plaintext.statements.reader import StatementReader, own_sentences
from memos_vllm.plaintext.statements.weights import ANY, PROBES, SHIPPED, Weights, weights_for


@pytest.fixture(scope="module")
def shipped():
    return [Weights.load(path) for path in sorted(SHIPPED.glob("*.npz")) if path.name != ANY]


class FakeEncoder:
    """Gives the probes' vectors of some weights, and one vector for all else."""

    def __init__(self, weights):
        self._weights = weights

    def embed(self, texts):
        if list(texts) == list(PROBES):
            return self._weights.probes
        return np.tile(self._weights.probes[0], (len(texts), 1))


def test_weights_are_found_by_the_vectors_of_the_embedder_not_by_its_name(shipped):
    for weights in shipped:
        found = weights_for(weights.probes, ())
        assert np.array_equal(found.probes, weights.probes)
        near = weights.probes + np.float32(0.001)
        assert weights_for(near, ()).uses_vectors


def test_an_unknown_embedder_is_served_by_letters_alone(shipped):
    other = np.roll(shipped[0].probes, 7, axis=1)
    assert not weights_for(other, ()).uses_vectors
    assert not weights_for(other[:, :100], ()).uses_vectors
    assert not weights_for(None, ()).uses_vectors


def test_weights_made_for_an_embedder_go_before_the_shipped_ones(shipped, tmp_path):
    dataclasses.replace(shipped[0], threshold=0.5).save(tmp_path / "mine.npz")
    assert weights_for(shipped[0].probes, [tmp_path]).threshold == 0.5


def test_a_damaged_file_of_weights_is_left_out(shipped, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"no weights")
    assert weights_for(shipped[0].probes, [tmp_path]).uses_vectors
    with pytest.raises(ValueError, match="no file of weights"):
        Weights.load(tmp_path / "bad.npz")


def test_words_of_every_script_are_whole():
    assert words("मेरी बहन") == ["मेरी", "बहन"]
    assert content("我住在北京") == {"我住", "住在", "在北", "北京"}
    assert abs(float(np.linalg.norm(grams("Ça va?"))) - 1) < 1e-5


def test_sentences_are_the_writers_own():
    assert own_sentences("I like tea.\n> I hate tea.\nAnd you?") == ["I like tea.", "And you?"]
    assert own_sentences("Correct this:\nI like tea.") == ["Correct this:"]
    assert own_sentences("Look here.\n```\nI like tea.\n```\nI like it.") == [
        "Look here.",
        "I like it.",
    ]
    assert own_sentences("I like tea.\n" * 40) == []


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("My sister's dog", {"sister"}),
        ("Ma sœur et mon frère", {"sister", "brother"}),
        ("मेरी बहन दिल्ली में है", {"sister"}),
        ("姉は大阪にいます", {"sister"}),
        ("I moved", set()),
    ],
)
def test_relatives_are_named_in_several_languages(text, who):
    assert relatives(text) == who


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("I no longer smoke.", True),
        ("Je ne fume plus.", True),
        ("Ich esse kein Fleisch mehr.", True),
        ("我戒烟了。", True),
        ("I smoke.", False),
        ("Ich wohne in Hamburg.", False),
        ("毎朝コーヒーを飲みます。", False),
    ],
)
def test_words_tell_of_a_change(text, changes):
    assert tells_change(text) is changes


def test_the_judge_needs_a_change_and_the_same_subject(shipped):
    judge = PairJudge(StatementReader(FakeEncoder(shipped[0])))
    assert judge.judge("I live in Paris.", "i live in paris") == "same"
    assert judge.judge("I live in Paris.", "I live in Rome.") == "unrelated"
    assert judge.judge("My sister lives in Paris.", "I no longer live in Paris.") == "unrelated"


def test_a_full_block_lets_the_lowest_standing_go_and_the_newest_of_it_first():
    def item(name, standing):
        claim = Claim(subject="a", standing=standing)
        return Item(type=ItemType.PREFERENCE, text=name, claim=claim)

    items = [
        item("p1", Standing.PREFERENCE),
        item("f1", Standing.FACT),
        item("p2", Standing.PREFERENCE),
        item("i1", Standing.INSTRUCTION),
        item("c1", Standing.CONSTRAINT),
    ]
    for most, texts in ((5, "p1 f1 p2 i1 c1"), (4, "p1 p2 i1 c1"), (3, "p1 i1 c1"), (1, "c1")):
        kept, others = choose(items, most, 1000)
        assert [each.text for each in kept] == texts.split()
        assert len(kept) + len(others) == len(items)
    assert choose(items, 5, 0)[0] == []


@pytest.mark.parametrize(
    ("attribute", "standing"),
    [
        ("allergy:nuts", Standing.CONSTRAINT),
        ("diet", Standing.CONSTRAINT),
        ("reply.language", Standing.INSTRUCTION),
        ("home", Standing.FACT),
        ("cat.name", None),
    ],
)
def test_claims_of_rules_have_a_standing_by_their_attribute(attribute, standing):
    item = Item(type=ItemType.FACT, text="x", claim=Claim(subject="a", attribute=attribute))
    assert standing_of(item) is standing


@pytest.mark.parametrize("text", ["Killed.", "Mine. Berlin!", "yes", "Heading\n\nok"])
def test_a_single_word_states_nothing(text):
    assert own_sentences(text) == []


def test_a_sentence_without_spaces_is_no_single_word():
    assert own_sentences("我讨厌恐怖电影。") == ["我讨厌恐怖电影。"]
