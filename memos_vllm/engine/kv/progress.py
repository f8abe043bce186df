"""Progress of a load that a step computes on, layer by layer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Progress:
    """Layers of a load that are in the paged cache; a step that computes on the load waits for them."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._written: set[int] = set()
        self._over = False
        self.waited: set[int] = set()
        """Layers whose attention has called `wait`."""

    def written(self, layer: int) -> None:
        with self._condition:
            self._written.add(layer)
            self._condition.notify_all()

    def finish(self) -> None:
        """End every wait: the load is complete, or it failed."""
        with self._condition:
            self._over = True
            self._condition.notify_all()

    def wait(self, layer: int) -> None:
        self.waited.add(layer)
        with self._condition:
            self._condition.wait_for(lambda: self._over or layer in self._written)

    def wait_until_over(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._over)


@contextlib.contextmanager
def finishing(progress: Progress | None) -> Iterator[None]:
    """Finish a progress at the end of the block, also after an error."""
    try:
        yield
    finally:
        if progress is not None:
            progress.finish()
