"""The engine that is attached to a MemorySystem, as far as changes of memory concern it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from memos_vllm.parametric.adapter.checks import Shaped


class ServedModel(Protocol):
    """The model that the engine serves, which adapters have to fit."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the base model's weights."""
        ...

    @property
    def max_rank(self) -> int | None:
        """Highest rank of an adapter; None: the engine attaches no adapters."""
        ...

    def check(self, adapter: Shaped) -> None:
        """Check an adapter's shapes and rank. Raises Unprocessable."""
        ...


@dataclasses.dataclass(frozen=True)
class AttachedEngine:
    """An engine in this process, as far as changes of memory concern it."""

    served: ServedModel
    text_changed: Callable[[str], None] | None = None
    """Called with a cube's id after its text has changed and its stored KV was wiped."""
    adapters_changed: Callable[[], None] | None = None
    """Called after an adapter was deleted."""
    reader: Callable[[], object] | None = None
    """Status of the model that reads turns (`learning.examine.ReaderStatus`)."""
