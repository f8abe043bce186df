"""What the steps of the memory pipeline take and give back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from memos_vllm.cube.model import Item
from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.reader.query import MemoryQuery
from memos_vllm.plaintext.search.search import Found


@dataclasses.dataclass(frozen=True)
class Recall:
    """What was found for a question, the best first; the budget is applied afterwards."""

    principal: Principal
    query: MemoryQuery
    found: Sequence[Found]
    further: Sequence[Found] = ()
    """What came behind them: a step may prefer one of these."""


@dataclasses.dataclass(frozen=True)
class Learn:
    """What was read out of a turn."""

    principal: Principal
    turn: Sequence[Item]
    """As it was said."""
    claims: Sequence[Item]


State = TypeVar("State", Recall, Learn)
Step = Callable[[State], State]
