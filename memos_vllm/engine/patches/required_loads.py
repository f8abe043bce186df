"""0007: a request whose KV has to be loaded ends with an error where it cannot be.

vLLM has one policy for all requests whose KV a connector fails to load: compute it, or end them.  The places
of a compact (`activation.compacts`) stand for no text: computed, they would be noise.  Here those requests
end with an error before their first token, and only those: the API process repeats them with the text.
Their blocks leave the prefix cache.  See `patches/0007-required-loads.md`.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from memos_vllm.activation.orders import has_places

NAME = "0007-required-loads"
_MODULE = "vllm.v1.core.sched.scheduler"
_MARK = "_memos_required_loads"
_LOST = "_memos_lost_loads"
_refused: set[str] = set()
"""Requests of this process that a connector cannot load for; they end at the end of the step."""


def install() -> bool:
    """Wrap the scheduler's methods. False: this vLLM has others. Idempotent."""
    if not is_possible():
        return False
    scheduler: Any = importlib.import_module(_MODULE).Scheduler
    if _MARK not in vars(scheduler):
        scheduler._handle_invalid_blocks = _noting(scheduler._handle_invalid_blocks)
        scheduler.update_from_output = _ending(scheduler.update_from_output)
        setattr(scheduler, _MARK, True)
    return True


def is_possible() -> bool:
    """Whether this vLLM's scheduler has what is wrapped."""
    try:
        scheduler = importlib.import_module(_MODULE).Scheduler
        pool = importlib.import_module("vllm.v1.core.kv_cache_manager").KVCacheManager
        importlib.import_module("vllm.v1.engine").EngineCoreOutput  # noqa: B018
    except (ImportError, AttributeError):
        return False
    names = ("_handle_invalid_blocks", "update_from_output", "finish_requests")
    return all(hasattr(scheduler, name) for name in names) and hasattr(pool, "evict_blocks")


def refuse(request_id: str) -> None:
    """End a request at the end of this step: its places cannot be loaded here."""
    _refused.add(request_id)


def _noting(original: Any) -> Any:
    @functools.wraps(original)
    def handle(self: Any, invalid_block_ids: set[int], *rest: Any, **named: Any) -> set[str]:
        failed: set[str] = set()
        for request in self.requests.values():
            if has_places(request.kv_transfer_params):
                (blocks,) = self.kv_cache_manager.get_block_ids(request.request_id)
                if lost := _from_first(blocks, invalid_block_ids):
                    failed.add(request.request_id)
                    self.kv_cache_manager.evict_blocks(lost)
        skipped: set[str] = original(self, invalid_block_ids, *rest, **named)
        self.__dict__.setdefault(_LOST, set()).update(failed)
        return skipped

    return handle


def _from_first(blocks: list[int], invalid: set[int]) -> set[int]:
    """The blocks from the first invalid one on."""
    first = next((i for i, block in enumerate(blocks) if block in invalid), len(blocks))
    return set(blocks[first:])


def _ending(original: Any) -> Any:
    @functools.wraps(original)
    def update_from_output(self: Any, *arguments: Any, **named: Any) -> Any:
        outputs = original(self, *arguments, **named)
        lost = self.__dict__.pop(_LOST, set()) | _refused
        if lost:
            _refused.clear()
            _end(self, lost, outputs)
        return outputs

    return update_from_output


def _end(scheduler: Any, ids: set[str], outputs: dict[int, Any]) -> None:
    """End requests with an error, among the outputs of this step."""
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.request import RequestStatus

    requests = [scheduler.requests[each] for each in ids if each in scheduler.requests]
    scheduler.finish_requests([each.request_id for each in requests], RequestStatus.FINISHED_ERROR)
    for request in requests:
        end = EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=[],
            finish_reason=request.get_finished_reason(),
        )
        of_client = outputs.setdefault(request.client_index, EngineCoreOutputs())
        of_client.outputs.append(end)
