"""States of a request between vLLM's scheduler and our connectors, and results of a worker."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from memos_vllm.engine.kv.messages import StepOrders


class When(enum.Enum):
    """When the KV of a match is loaded."""

    NEVER = enum.auto()
    """Nothing matches."""
    UNDECIDED = enum.auto()
    """The lookup has no result yet: vLLM asks again in a later step."""
    IN_STEP = enum.auto()
    """By the step that computes the rest of the prompt."""
    BETWEEN_STEPS = enum.auto()
    """In the background, while the engine computes other requests."""


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """Tokens of a request, beyond those that the engine has, that a connector can load."""

    tokens: int
    when: When

    def for_vllm(self) -> tuple[int | None, bool]:
        """As `get_num_new_matched_tokens` returns it: (tokens or None, loaded between steps)."""
        if self.when is When.UNDECIDED:
            return None, False
        return self.tokens, self.when is When.BETWEEN_STEPS


MISS = Match(0, When.NEVER)
UNDECIDED = Match(0, When.UNDECIDED)


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """Requests whose transfer is over, whether it failed or not."""

    saved: frozenset[str] = frozenset()
    loaded: frozenset[str] = frozenset()

    def for_vllm(self) -> tuple[set[str] | None, set[str] | None]:
        """As `get_finished` returns it: (saved, loaded), None for an empty set."""
        return set(self.saved) or None, set(self.loaded) or None


class Worker(Protocol):
    """The connector in a worker process, in the order of the calls of a step."""

    def step_begins(self, orders: StepOrders) -> None: ...
    def begin(self, orders: StepOrders) -> None: ...
    def wait_for_layer(self, name: str) -> None: ...
    def step_ends(self) -> None: ...
    def answered(self) -> None: ...
    def take_finished(self) -> Finished: ...
    def take_bad_blocks(self) -> set[int]: ...
    def take_counts(self) -> dict[str, float]: ...
    def close(self) -> None: ...
