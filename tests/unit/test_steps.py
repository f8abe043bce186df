"""Steps of the memory pipeline: loading by name, order, failures, and the built-in ones."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from memos_vllm import metrics, steps
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube
from memos_vllm.errors import ConfigError, Unavailable
from memos_vllm.learning.remember import Rememberer
from memos_vllm.plaintext.reader.query import read_text
from memos_vllm.plaintext.reader.turns import turn_body
from memos_vllm.steps import Learn, Recall, rerank
from memos_vllm.system import MemorySystem
from tests.conftest import FakeQueue, make_config, principal

ALICE = principal("alice")
EXAMPLE = Path(__file__).parents[2] / "examples" / "step_fresh.py"


@pytest.fixture
def found(system):
    texts = ("The sky is green!", "the sky is green", "Bread is good.", "The sky was red.")
    items = [
        Item(text=text, time=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day))
        for day, text in enumerate(texts)
    ]
    system.create(ALICE, [NewCube(payload=ExplicitPayload(content=items))])
    result = system.operator.search(ALICE, "sky green red bread", None, 10)
    assert len(result.found) == len(texts)
    return Recall(ALICE, read_text("Which colour has the sky?"), result.found)


def texts(recall):
    return [each.recalled.item.text for each in recall.found]


def entry(monkeypatch, **named):
    """Fake entry points of an installed package."""
    made = [
        importlib.metadata.EntryPoint(name, value, steps.GROUP) for name, value in named.items()
    ]
    monkeypatch.setattr(steps, "entry_points", lambda group: made)


def failures(step):
    (metric,) = metrics.STEP_FAILURES.collect()
    samples = [s for s in metric.samples if s.name.endswith("_total") and step in s.labels.values()]
    return sum(sample.value for sample in samples)


def no_claims(learn: Learn) -> Learn:
    return dataclasses.replace(learn, claims=())


def broken(state):
    raise RuntimeError("not today")


def nothing(state):
    return None


def test_distinct_drops_items_without_new_words(found):
    left = texts(steps.run(steps.load(["distinct"], None), found))
    better = next(text for text in texts(found) if "green" in text)
    assert [text for text in left if "green" in text] == [better]
    assert len(left) == 3


def test_a_foreign_step_reorders_the_results(found):
    fresh = runpy.run_path(str(EXAMPLE))["fresh"]
    order = texts(steps.run([("fresh", fresh)], found))
    assert order[0] == "The sky was red."
    assert len(order) == 4


def test_a_foreign_step_that_fails_is_left_out_and_the_others_run(found, caplog):
    named = [("broken", broken), ("nothing", nothing), ("distinct", steps.distinct)]
    assert len(texts(steps.run(named, found))) == 3
    assert "broken is left out" in caplog.text
    assert "nothing gave back no Recall" in caplog.text


def test_a_built_in_step_whose_model_is_unavailable_is_left_out(found, caplog):
    def away(recall):
        raise Unavailable("the reranker failed: out of memory")

    before = failures("rerank")
    named = [("rerank", away), ("distinct", steps.distinct)]
    assert len(texts(steps.run(named, found))) == 3
    assert "rerank is left out: the reranker failed" in caplog.text
    assert failures("rerank") == before + 1


def test_any_other_error_of_a_built_in_step_rises(found):
    with pytest.raises(RuntimeError, match="not today"):
        steps.run([("distinct", broken)], found)


def test_an_unknown_step_is_a_config_error_that_names_the_known_ones(monkeypatch):
    entry(monkeypatch, mine="tests.unit.test_steps:no_claims", lost="no.such.module:step")
    assert [name for name, _ in steps.load(["distinct", "mine"], None)] == ["distinct", "mine"]
    with pytest.raises(ConfigError, match="known: distinct, diverse, link, lost, mine, rerank"):
        steps.load(["other"], None)
    with pytest.raises(ConfigError, match="cannot be imported"):
        steps.load(["lost"], None)


def test_a_learn_step_can_drop_claims(tmp_path, monkeypatch):
    entry(monkeypatch, secret="tests.unit.test_steps:no_claims")
    who = dataclasses.replace(ALICE, session="s")
    for names, known in (((), 1), (("secret",), 0)):
        config = make_config(tmp_path / str(known), pipeline={"learn": names})
        system = MemorySystem(config).open()
        rememberer = Rememberer(system, FakeQueue(system.jobs, system.config.jobs))
        messages = [{"role": "user", "content": "I live in Paris."}]
        body = turn_body(messages, "I see.", model="demo", request_id="r", at_us=now_us())
        rememberer.remember(rememberer.accept(who, body))
        assert len(system.knowledge.claims(who)) == known
        system.close()


# -- built in ------------------------------------------------------------------------------------------


def test_diverse_prefers_new_content_to_repeated_content(system):
    stored = ("My cat Miso is grey.", "My cat Miso is grey and grey.", "My cat eats fish.")
    items = [Item(text=text) for text in stored]
    system.create(ALICE, [NewCube(payload=ExplicitPayload(content=items))])
    result = system.operator.search(ALICE, "my grey cat Miso", None, 2, further=True)
    recall = Recall(ALICE, read_text("What of my cat Miso?"), result.found, result.further)
    assert len(recall.found) == 2
    assert stored[2] not in texts(recall)
    after = steps.diverse(recall)
    assert stored[2] in texts(after)
    assert len(after.found) == 2
    assert len(after.further) == 1


class Longest:
    """Implements `Reranker`."""

    def scores(self, question, texts):
        return [float(len(text)) for text in texts]


def test_a_reranker_orders_its_pool_and_may_promote_further_items(found):
    split = dataclasses.replace(found, found=found.found[:2], further=found.found[2:])
    after = rerank.of(Longest(), depth=3)(split)
    assert len(after.found) == 2
    lengths = [len(text) for text in texts(after)]
    assert lengths == sorted(len(each.recalled.item.text) for each in found.found[:3])[:0:-1]
    assert after.further[-1] is found.found[3], "not read"


def test_a_cross_encoder_reranks_and_a_missing_one_is_a_config_error(tmp_path, found):
    config = BertConfig(
        vocab_size=64, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, num_labels=1, initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")

    def system_of(**retrieval):
        return MemorySystem(make_config(tmp_path, retrieval=retrieval))

    ((_, step),) = steps.load(["rerank"], system_of(reranker=str(tmp_path / "model")))
    after = step(found)
    scores = [each.score for each in after.found]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    assert sorted(texts(after)) == sorted(texts(found))
    encoder = rerank.CrossEncoder(str(tmp_path / "model"))
    encoder._model.model.bert.embeddings.word_embeddings = torch.nn.Embedding(1, 8)
    with pytest.raises(Unavailable, match="the reranker failed: index out of range"):
        encoder.scores("a", ["b"])  # tokens outside of the vocabulary
    with pytest.raises(ConfigError, match=r"retrieval\.reranker"):
        steps.load(["rerank"], system_of())
    with pytest.raises(ConfigError, match="cannot be loaded"):
        steps.load(["rerank"], system_of(reranker=str(tmp_path / "nothing")))
