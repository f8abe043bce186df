"""Steps that an operator adds: found by name, run in order, and never the end of a chat."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import runpy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from memos_vllm import steps
from memos_vllm.cube.ids import now_us
from memos_vllm.cube.model import ExplicitPayload, Item, NewCube
from memos_vllm.errors import ConfigError
from memos_vllm.reader.query import read_text
from memos_vllm.reader.turns import turn_body
from memos_vllm.remember import Rememberer
from memos_vllm.steps import Learn, Recall
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
    """Entry points as an installed package would have them."""
    made = [
        importlib.metadata.EntryPoint(name, value, steps.GROUP) for name, value in named.items()
    ]
    monkeypatch.setattr(steps, "entry_points", lambda group: made)


def no_claims(learn: Learn) -> Learn:
    return dataclasses.replace(learn, claims=())


def broken(state):
    raise RuntimeError("not today")


def nothing(state):
    return None


def test_what_says_no_word_more_is_left_out(found):
    kept = texts(steps.run(steps.load(["distinct"]), found))
    better = next(text for text in texts(found) if "green" in text)
    assert [text for text in kept if "green" in text] == [better]
    assert len(kept) == 3


def test_they_run_in_the_order_of_the_configuration(found):
    fresh = runpy.run_path(str(EXAMPLE))["fresh"]
    order = texts(steps.run([("fresh", fresh)], found))
    assert order[0] == "The sky was red."
    assert len(order) == 4


def test_one_that_fails_is_left_out_and_the_others_run(found, caplog):
    named = [("broken", broken), ("nothing", nothing), ("distinct", steps.distinct)]
    assert len(texts(steps.run(named, found))) == 3
    assert "broken is left out" in caplog.text
    assert "nothing gave back no Recall" in caplog.text


def test_a_name_that_is_not_there_stops_the_server_and_names_the_others(monkeypatch):
    entry(monkeypatch, mine="tests.unit.test_steps:no_claims", lost="no.such.module:step")
    assert [name for name, _ in steps.load(["distinct", "mine"])] == ["distinct", "mine"]
    with pytest.raises(ConfigError, match="known: distinct, lost, mine"):
        steps.load(["other"])
    with pytest.raises(ConfigError, match="cannot be imported"):
        steps.load(["lost"])


def test_a_step_of_learning_decides_what_becomes_known(tmp_path, monkeypatch):
    entry(monkeypatch, secret="tests.unit.test_steps:no_claims")
    who = dataclasses.replace(ALICE, session="s")
    for names, known in (((), 1), (("secret",), 0)):
        config = make_config(tmp_path / str(known), pipeline={"learn": names})
        system = MemorySystem(config).open()
        rememberer = Rememberer(system, FakeQueue(system.config))
        messages = [{"role": "user", "content": "I live in Paris."}]
        body = turn_body(messages, "I see.", model="demo", request_id="r", at_us=now_us())
        rememberer.remember(rememberer.accept(who, body))
        assert len(system.knowledge.claims(who)) == known
        system.close()
