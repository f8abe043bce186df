"""States of the memory pipeline: input and output of its steps."""

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
    """Search results for a question, best first; the budget is applied afterwards."""

    principal: Principal
    query: MemoryQuery
    found: Sequence[Found]
    further: Sequence[Found] = ()
    """Results ranked behind `found`: a step may promote one of them."""


@dataclasses.dataclass(frozen=True)
class Learn:
    """Claims that were read from a turn."""

    principal: Principal
    turn: Sequence[Item]
    """Verbatim."""
    claims: Sequence[Item]


State = TypeVar("State", Recall, Learn)
Step = Callable[[State], State]
