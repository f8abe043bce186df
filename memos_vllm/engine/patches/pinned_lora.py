"""0002: a pinned adapter stays in memory, and takes no slot of the batch.

vLLM's `pin_adapter` pins both.  The scheduler goes on to put `max_loras` different adapters into one
step, for which there is one slot too few: an adapter of that very step loses its slot, and the engine
ends.  See `patches/0002-pinned-lora.md`.
"""

from __future__ import annotations

import importlib
from typing import Any

NAME = "0002-pinned-lora"
_MANAGER = "vllm.lora.model_manager"
_MARK = "_memos_patched"


def install() -> bool:
    """Replace `pin_adapter`. Idempotent."""
    manager: Any = importlib.import_module(_MANAGER).LRUCacheLoRAModelManager
    if not getattr(manager, _MARK, False):
        manager.pin_adapter = pin_adapter
        setattr(manager, _MARK, True)
    return True


def pin_adapter(self: Any, lora_id: int) -> bool:
    """Exempt an adapter from eviction. Raises ValueError: it is not in memory."""
    self._pin_lora_in_cpu_cache(lora_id)
    return True
