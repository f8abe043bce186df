"""Optimistic concurrency: read, change, write with `if_match`, and begin again after a conflict."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from memos_vllm.errors import Conflict, Erased

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def retry_conflicts(change: Callable[[], Result], message: str, attempts: int = 20) -> Result:
    """Call `change`, which reads and writes, until no other writer comes in between.

    Args:
        message: of the error that is raised in the end.

    Raises:
        Conflict: each attempt met another writer.
    """
    for _ in range(attempts):
        try:
            return change()
        except Erased:
            raise
        except Conflict as error:
            log.debug("changed meanwhile, reading again: %s", error)
    raise Conflict(message)
