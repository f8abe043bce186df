"""Entry point `vllm.general_plugins`: runs in every process of the engine, more than once.

It installs what `patches/` lists, and ends each child process with its parent.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing

from memos_vllm import lifeline
from memos_vllm.engine import patches

log = logging.getLogger(__name__)


def register() -> None:
    """Install the patches and the lifeline. Idempotent."""
    log.debug("patches of vLLM in this process: %s", ", ".join(patches.install()) or "none")
    _end_with_parent()


@functools.cache
def _end_with_parent() -> None:
    """End an engine core or a worker whose parent was killed and could not stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        lifeline.end_with(parent.pid)
