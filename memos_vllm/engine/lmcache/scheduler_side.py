"""LMCache in the engine core: what it has of a conversation, and what of one it is given.

A request is looked up when it is scheduled, its KV is loaded while others run on, and what is new is
handed over after its reply.  Where LMCache does not answer, everything is computed.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from memos_vllm.activation.orders import read_orders
from memos_vllm.engine.lmcache.endpoint import Endpoint
from memos_vllm.engine.lmcache.ledger import Ledger, Place
from memos_vllm.engine.lmcache.link import Link
from memos_vllm.engine.lmcache.messages import StepTransfers, Transfer

log = logging.getLogger("vllm.memos_kv")
_POLL_SECONDS = 0.001


@dataclasses.dataclass(slots=True)
class _Followed:
    """A request whose conversation LMCache may keep."""

    place: Place
    asked: bool = False
    """A lookup was sent whose answer is not used yet."""
    adapter: Any = None
    """The connection that it was sent over."""
    end: int = 0
    """Tokens that were asked for."""
    hit: int = 0
    """Tokens that LMCache has, and keeps from eviction until they are loaded or given up."""
    done: bool = False
    """Looked up, and loaded or not: a request is not looked up again."""
    saving: tuple[bytes, ...] = ()
    """Chunks that are on their way."""


class SchedulerSide:
    def __init__(self, ledger: Ledger, endpoint: Endpoint, link: Link[Any]) -> None:
        self._ledger = ledger
        self._endpoint = endpoint
        self._link = link
        self._least = endpoint.config.segment_tokens
        self._requests: dict[str, _Followed | None] = {}
        self._saving: dict[str, _Followed] = {}
        self._orders = StepTransfers()
        self._hashers: dict[int, Any] = {}
        self._counts: Counter[str] = Counter()

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """(tokens beyond `computed` that LMCache has; None: ask again, loaded while others run)."""
        followed = self._followed(request)
        if followed is None or followed.done:
            return 0, False
        if not followed.asked and not self._ask(request, followed, computed):
            followed.done = True
            return 0, False
        hit = self._call(followed.adapter, "check_lookup_result", request.request_id, default=0)
        if hit is None:
            if len(self._requests) == 1:  # nobody else is computed for meanwhile
                time.sleep(_POLL_SECONDS)  # and the answer comes to another thread
            return None, False
        if not hit and not followed.adapter.is_healthy:
            self._counts["lmcache_unanswered"] += 1
            self._let_go(request, followed, 0)
            return 0, False
        followed.hit = hit
        if hit < followed.end:
            self._ledger.doubt(followed.place)  # it has lost some, or never had it
        end = min(hit, request.num_prompt_tokens - 1)
        if end - computed < self._least:
            return 0, False
        return end - computed, True

    def allocated(self, request: Any, block_ids: Sequence[int], external: int) -> None:
        followed = self._requests.get(request.request_id)
        if followed is None or not followed.asked:
            return
        chunk, size = followed.adapter.lmcache_tokens_per_chunk, self._endpoint.block_size
        computed = min(followed.hit, request.num_prompt_tokens - 1) - external
        start = computed // chunk * chunk if external else followed.hit
        if external:
            self._orders.loads.append(
                Transfer(
                    request.request_id,
                    followed.place.salt,
                    tuple(request.prompt_token_ids[: followed.hit]),
                    tuple(block_ids[start // size : followed.hit // size]),
                    start,
                    followed.hit,
                    skip=computed // size * size - start,
                )
            )
        self._let_go(request, followed, start)

    def finished(self, request: Any, block_ids: Sequence[int]) -> bool:
        """Order what LMCache does not have to be handed over; True: the blocks must stay until then."""
        followed = self._requests.pop(request.request_id, None)
        if followed is None:
            return False
        if followed.asked:
            self._let_go(request, followed, followed.hit)
        save = self._save(request, followed, block_ids) if request.num_output_tokens else None
        if save is None:  # without a reply, not all of the prompt was computed
            self._end(request.request_id, followed)
            return False
        self._orders.saves.append(save)
        self._saving[request.request_id] = followed
        return True

    def not_saved(self, request_ids: Iterable[str]) -> None:
        """Before `saved` names them."""
        for request_id in request_ids:
            if request_id in self._saving:
                self._ledger.doubt(self._saving[request_id].place)

    def saved(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if (followed := self._saving.pop(request_id, None)) is not None:
                self._end(request_id, followed)
                self._ledger.given(followed.place, followed.saving)

    def take_orders(self) -> StepTransfers:
        orders, self._orders = self._orders, StepTransfers()
        return orders

    def take_counts(self) -> dict[str, float]:
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    # -- inside -----------------------------------------------------------------------------------

    def _followed(self, request: Any) -> _Followed | None:
        if request.request_id not in self._requests:
            self._requests[request.request_id] = self._read(request)
        return self._requests[request.request_id]

    def _read(self, request: Any) -> _Followed | None:
        orders = read_orders(request.kv_transfer_params)
        if orders is None or orders.conversation is None or not request.prompt_token_ids:
            return None
        if request.mm_features or request.lora_request is not None:
            return None  # the tokens alone do not say what was computed
        place = Place(orders.conversation)
        return None if self._ledger.is_gone(place) else _Followed(place)

    def _ask(self, request: Any, followed: _Followed, computed: int) -> bool:
        """Send the lookup; False: there is nothing to be gained, or nobody to be asked."""
        end = min(followed.place.conversation.end, request.num_prompt_tokens)
        if end - computed < self._least:
            return False
        adapter = self._link.get()
        if adapter is None:
            self._counts["lmcache_unanswered"] += 1
            return False
        chunk = adapter.lmcache_tokens_per_chunk
        tokens = list(request.prompt_token_ids[: end // chunk * chunk])
        if len(tokens) - computed < self._least:
            return False
        followed.asked, followed.adapter, followed.end = True, adapter, len(tokens)
        self._call(
            adapter,
            "maybe_submit_lookup_request",
            request.request_id,
            token_ids=tokens,
            cache_salt=followed.place.salt,
        )
        return True

    def _let_go(self, request: Any, followed: _Followed, end: int) -> None:
        """The lookup is used: what it found up to `end` is not needed after all."""
        adapter, followed.asked, followed.done = followed.adapter, False, True
        self._call(adapter, "cleanup_lookup_result", request.request_id)
        if end > 0:
            self._call(
                adapter,
                "free_lookup_locks",
                token_ids=list(request.prompt_token_ids[: followed.hit]),
                start=0,
                end=end,
                request_id=request.request_id,
                cache_salt=followed.place.salt,
            )

    def _save(self, request: Any, followed: _Followed, block_ids: Sequence[int]) -> Transfer | None:
        """What LMCache does not have yet, noted; None: nothing, or it cannot be given."""
        place, adapter = followed.place, self._link.get()
        if adapter is None or self._ledger.is_gone(place):
            return None
        chunk, size = adapter.lmcache_tokens_per_chunk, self._endpoint.block_size
        end = min(place.conversation.end, request.num_prompt_tokens) // chunk * chunk
        tokens = request.prompt_token_ids[:end]
        hashes = self._hasher(chunk).compute_chunk_hashes(list(tokens))
        new = self._ledger.unknown(place, hashes)
        if not new:
            return None
        try:
            self._ledger.note(place, new)
        except OSError as error:
            log.warning("a conversation's KV is not kept: %s", error)
            self._counts["lmcache_save_failures"] += 1
            return None
        start = max(followed.hit, hashes.index(new[0]) * chunk)
        if start >= end:
            return None
        followed.adapter, followed.saving = adapter, tuple(new)
        blocks = tuple(block_ids[start // size : end // size])
        return Transfer(request.request_id, place.salt, tuple(tokens), blocks, start, end)

    def _hasher(self, chunk: int) -> Any:
        if chunk not in self._hashers:
            self._hashers[chunk] = self._endpoint.hasher(chunk)
        return self._hashers[chunk]

    def _end(self, request_id: str, followed: _Followed) -> None:
        if followed.adapter is not None:
            self._call(followed.adapter, "end_session", request_id)

    def _call(self, adapter: Any, method: str, *args: Any, default: Any = None, **how: Any) -> Any:
        """A call to LMCache: one that fails is a miss, and the connection is made again."""
        try:
            return getattr(adapter, method)(*args, **how)
        except Exception:
            log.warning("LMCache fails at %s", method, exc_info=True)
            self._link.lost(adapter)
            return default
