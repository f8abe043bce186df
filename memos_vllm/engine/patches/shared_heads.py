"""0006: blocks of a prompt's head that the whole tenant may read are shared by its people.

vLLM puts a request's `cache_salt` into the hash of its first block, so that two people share no block at
all, and a knowledge base of the tenant is computed and held once for each of them.  Here the first block
gets the tenant's salt, and the first block behind the shared head the request's own: everything from there
on is the person's.  The API process gives head and salt (`activation.orders.SharedHead`).  Where this is
not installed, every block keeps the request's own salt.  See `patches/0006-shared-heads.md`.
"""

from __future__ import annotations

import functools
import importlib
from types import SimpleNamespace
from typing import Any

from memos_vllm.activation.orders import shared_head

NAME = "0006-shared-heads"
FUNCTION = "generate_block_hash_extra_keys"
MODULES = (
    "vllm.v1.core.kv_cache_utils",
    "vllm.v1.core.block_pool",
    "vllm.v1.simple_kv_offload.manager",
)
_MARK = "_memos_shared_heads"


def install() -> bool:
    """Replace the function where it is looked up. Idempotent.

    Returns:
        False: this vLLM has no such function, or another way to salt blocks.
    """
    utils: Any = importlib.import_module(MODULES[0])
    original = getattr(utils, FUNCTION, None)
    if original is None or not salts_first_block(original):
        return False
    if not hasattr(original, _MARK):
        replaced = _with_border(original)
        for name in MODULES:
            try:
                module: Any = importlib.import_module(name)
            except ImportError:
                continue
            if getattr(module, FUNCTION, None) is original:
                setattr(module, FUNCTION, replaced)
    return True


def salts_first_block(function: Any) -> bool:
    """Whether the function adds the salt to the first block and to no other."""
    request = SimpleNamespace(
        cache_salt="salt", mm_features=[], lora_request=None, prompt_embeds=None
    )
    try:
        first, later = function(request, 0, 16, 0)[0], function(request, 16, 32, 0)[0]
    except (AttributeError, TypeError):
        return False
    return first in (("salt",), (("cache_salt", "salt"),)) and later is None


def _with_border(original: Any) -> Any:
    @functools.wraps(original)
    def extra_keys(request: Any, start: int, end: int, start_mm: int) -> Any:
        keys, next_mm = original(request, start, end, start_mm)
        own = request.cache_salt
        head = shared_head(request.kv_transfer_params) if own else None
        if head is None or head.end < start or (start == 0 and head.end < end):
            return keys, next_mm
        if start == 0:
            salts = {own: head.salt, ("cache_salt", own): ("cache_salt", head.salt)}
            return tuple(salts.get(key, key) for key in keys), next_mm
        if head.end < end:  # the first block with a token behind the head
            return (*(keys or ()), ("cache_salt", own)), next_mm
        return keys, next_mm

    setattr(extra_keys, _MARK, True)
    return extra_keys
