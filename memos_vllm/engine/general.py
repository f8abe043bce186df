"""Entry point `vllm.general_plugins`: runs in every process of the engine, more than once.

It installs what `patches/` lists.
"""

from __future__ import annotations

import logging

from memos_vllm.engine import patches

log = logging.getLogger(__name__)


def register() -> None:
    """Install the patches. Idempotent."""
    log.debug("patches of vLLM in this process: %s", ", ".join(patches.install()) or "none")
