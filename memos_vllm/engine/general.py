"""Entry point `vllm.general_plugins`: runs in every process of the engine, more than once.

What it has to install is what `patches/` lists: nothing so far.  It stays an entry point so that the
engine side of activation and parametric memory has its place.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


def register() -> None:
    """Idempotent; installs no patch, because none is needed (see patches/README.md)."""
    log.debug("memos_vllm is on the path of this process; no patch is installed")
