"""Entry point `vllm.general_plugins`: runs in every process of the engine, more than once.

It installs what `patches/` lists, ends each child process with its parent, and refuses an engine behind a
front end without keys.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os

from memos_vllm import lifeline
from memos_vllm.engine import front_ends, patches
from memos_vllm.errors import ConfigError

log = logging.getLogger(__name__)


def register() -> None:
    """Install the patches and the lifeline. Idempotent.

    Raises:
        ConfigError: another front end than vLLM's HTTP server in Python, and keys exist.
    """
    _refuse_other_front_ends()
    log.debug("patches of vLLM in this process: %s", ", ".join(patches.install()) or "none")
    _end_with_parent(os.getpid())


def _refuse_other_front_ends() -> None:
    problems = front_ends.started()
    if not problems or not _keys_exist():
        return
    raise ConfigError(
        f"{'; '.join(problems)}: it would answer without keys, salts and memory, and keys of memos_vllm exist. "
        "Start vLLM's HTTP server (`memos serve`), or the engine without the plugin `memos`"
    )


def _keys_exist() -> bool:
    from memos_vllm.config.load import load_config
    from memos_vllm.system import MemorySystem

    system = MemorySystem(load_config())
    try:
        system.database.migrate()  # of a home that no server has used yet
        return system.keys.any()
    finally:
        system.close()


@functools.cache
def _end_with_parent(pid: int) -> None:
    """End an engine core or a worker whose parent was killed and could not stop it.

    Args:
        pid: of this process: the cache of a forked process is its parent's.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        lifeline.end_with(parent.pid)
