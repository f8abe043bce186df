"""The order behind the best results, through the whole search: what must not decide it."""

from __future__ import annotations

import pytest

from memos_vllm.cube.model import ExplicitPayload, Item, NewCube, NewMeta
from memos_vllm.system import MemorySystem
from tests.conftest import principal

ALICE = principal()
QUESTION = "Which train goes to the harbour festival?"
WEAK = [f"The festival of street {n} was loud." for n in range(4)]
ANSWERS = [f"Train {n} goes to the harbour." for n in range(6)]


def keep(system: MemorySystem, session: str, *texts: str, **meta: object) -> None:
    content = [Item(text=text, speaker="alice", session=session) for text in texts]
    system.create(ALICE, [NewCube(meta=NewMeta(**meta), payload=ExplicitPayload(content=content))])


def answers_come_first(system: MemorySystem) -> bool:
    result = system.operator.search(ALICE, QUESTION, None, 60)
    texts = [found.recalled.item.text for found in result.found]
    told = [text for text in texts if text in ANSWERS or text in WEAK]
    return set(told[: len(ANSWERS)]) == set(ANSWERS) and len(told) == len(ANSWERS) + len(WEAK)


@pytest.fixture
def told(system: MemorySystem) -> MemorySystem:
    for number, text in enumerate(ANSWERS):
        keep(system, f"answer {number}", text)
    for number, text in enumerate(WEAK):
        keep(system, f"asked {number}", text)
    assert answers_come_first(system)
    return system


@pytest.mark.parametrize("asked", [QUESTION, QUESTION.lower(), QUESTION.upper()])
def test_asking_twenty_times_does_not_lift_what_was_said_beside_it(told, asked):
    for number in range(20):
        keep(told, f"asked {number % len(WEAK)}", asked)
    assert answers_come_first(told)


def test_what_a_search_must_not_return_does_not_lift_its_session(told):
    for number in range(20):
        text = f"Train {number} goes to the harbour festival."
        keep(told, f"asked {number % len(WEAK)}", text, tags=["persona:chef"])
    assert answers_come_first(told)
