"""Candidates of one request: memory that may enter its prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from memos_vllm.plaintext.search.past import PastOperator
from memos_vllm.plaintext.search.search import Found
from memos_vllm.scheduler.kept import NONE, Blocks
from memos_vllm.scheduler.plan import PlanEntry
from memos_vllm.vault.views import OwnerState, StableCube


@dataclasses.dataclass(slots=True)
class Candidates:
    """Memory that may enter the prompt of one request."""

    owners: list[OwnerState] = dataclasses.field(default_factory=list)
    """Owners with any memory: the person and the tenant."""
    stable: Sequence[StableCube] = ()
    """Cubes for the head of the prompt, in prompt order."""
    named: int = 0
    """The first so many of `stable` are named in the request."""
    adapters: Sequence[PlanEntry] = ()
    """The plan's entries for parametric cubes."""
    found: Sequence[Found] = ()
    """Items found by search, the best first."""
    past: PastOperator | None = None
    """Search of a past moment (`memory.as_of`); None: of now."""
    kept: tuple[str, Blocks] = NONE
    """What the conversation's last prompt had (`KeptMemory.of`)."""
    further: Sequence[Found] = ()
    """Items behind them, which take the places of those that the plan rejects."""
