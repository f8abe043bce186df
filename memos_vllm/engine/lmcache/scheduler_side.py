"""LMCache in the engine core: look up conversations, order loads and saves.

A request is looked up when it is scheduled, its KV is loaded while the engine computes others, and new
chunks are handed over after its reply.  Where LMCache does not answer, all tokens are computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from memos_vllm.activation.hits import Loaded
from memos_vllm.activation.orders import read_orders
from memos_vllm.engine.kv.states import MISS, UNDECIDED, Match, When
from memos_vllm.engine.lmcache.client import LMCacheError, LookupClient
from memos_vllm.engine.lmcache.endpoint import Endpoint
from memos_vllm.engine.lmcache.ledger import ConversationKV, Ledger
from memos_vllm.engine.lmcache.link import Link
from memos_vllm.engine.lmcache.messages import StepTransfers, Transfer

log = logging.getLogger("vllm.memos_kv")
_POLL_SECONDS = 0.001


class _Lookup(enum.Enum):
    """State of a request's only lookup."""

    NOT_SENT = enum.auto()
    SENT = enum.auto()
    """The answer is not used yet; LMCache holds locks for it."""
    OVER = enum.auto()
    """Used, given up, or not worth sending."""


@dataclasses.dataclass(slots=True)
class _TrackedRequest:
    """A request whose conversation LMCache may load and save."""

    kv: ConversationKV
    lookup: _Lookup = _Lookup.NOT_SENT
    client: LookupClient | None = None
    """The connection of the lookup or the save."""
    end: int = 0
    """Tokens that were looked up."""
    hit: int = 0
    """Tokens that LMCache has and locks until they are loaded or given up."""
    saving: tuple[bytes, ...] = ()
    """Chunks of a save in flight."""
    loaded: tuple[Loaded, ...] = ()


class SchedulerSide:
    def __init__(self, ledger: Ledger, endpoint: Endpoint, link: Link[LookupClient]) -> None:
        self._ledger = ledger
        self._endpoint = endpoint
        self._link = link
        self._least = endpoint.config.segment_tokens
        self._requests: dict[str, _TrackedRequest | None] = {}
        self._saving: dict[str, _TrackedRequest] = {}
        self._orders = StepTransfers()
        self._counts: Counter[str] = Counter()

    def match(self, request: Any, computed: int) -> Match:
        """Tokens beyond `computed` that LMCache has."""
        tracked = self._tracked(request)
        if tracked is None or tracked.lookup is _Lookup.OVER:
            return MISS
        if tracked.lookup is _Lookup.NOT_SENT:
            tracked.client = self._submit_lookup(request, tracked, computed)
            tracked.lookup = _Lookup.OVER if tracked.client is None else _Lookup.SENT
        if tracked.client is None:
            return MISS
        hit: int | None = 0
        with self._missing(tracked.client):
            hit = tracked.client.lookup_result(request.request_id)
        if hit is None:
            if len(self._requests) == 1:  # no other request is computed meanwhile
                time.sleep(_POLL_SECONDS)  # the answer comes in another thread
            return UNDECIDED
        if not hit and not tracked.client.is_healthy:
            self._counts["lmcache_unanswered"] += 1
            self._end_lookup(request, tracked, 0)
            return MISS
        tracked.hit = hit
        if hit < tracked.end:
            self._ledger.doubt(tracked.kv)  # LMCache lost chunks, or never had them
        end = min(hit, request.num_prompt_tokens - 1)
        if end - computed < self._least:
            return MISS
        return Match(end - computed, When.BETWEEN_STEPS)

    def allocated(self, request: Any, block_ids: Sequence[int], external: int) -> None:
        """Order the load of the last `external` matched tokens; 0: another connector loads."""
        tracked = self._requests.get(request.request_id)
        if tracked is None or tracked.lookup is not _Lookup.SENT or tracked.client is None:
            return
        chunk, size = tracked.client.chunk_tokens, self._endpoint.block_size
        computed = min(tracked.hit, request.num_prompt_tokens - 1) - external
        start = computed // chunk * chunk if external else tracked.hit
        if external:
            tracked.loaded = (Loaded(computed, computed + external, "lmcache"),)
            self._orders.loads.append(
                Transfer(
                    request.request_id,
                    tracked.kv.salt,
                    tuple(request.prompt_token_ids[: tracked.hit]),
                    tuple(block_ids[start // size : tracked.hit // size]),
                    start,
                    tracked.hit,
                    skip=computed // size * size - start,
                )
            )
        self._end_lookup(request, tracked, start)

    def loaded(self, request: Any) -> tuple[Loaded, ...]:
        """What was loaded for a request that has not finished."""
        tracked = self._requests.get(request.request_id)
        return () if tracked is None else tracked.loaded

    def finished(self, request: Any, block_ids: Sequence[int]) -> bool:
        """Order a save of chunks that LMCache lacks; True: the blocks stay until it is over."""
        tracked = self._requests.pop(request.request_id, None)
        if tracked is None:
            return False
        if tracked.lookup is _Lookup.SENT:
            self._end_lookup(request, tracked, tracked.hit)
        save = self._save(request, tracked, block_ids) if request.num_output_tokens else None
        if save is None:  # also without a reply: the prefill may be incomplete
            self._end(request.request_id, tracked)
            return False
        self._orders.saves.append(save)
        self._saving[request.request_id] = tracked
        return True

    def not_saved(self, request_ids: Iterable[str]) -> None:
        """Doubt these requests' saves; called before `saved` names them."""
        for request_id in request_ids:
            if request_id in self._saving:
                self._ledger.doubt(self._saving[request_id].kv)

    def saved(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            if (tracked := self._saving.pop(request_id, None)) is not None:
                self._end(request_id, tracked)
                self._ledger.given(tracked.kv, tracked.saving)

    def take_orders(self) -> StepTransfers:
        orders, self._orders = self._orders, StepTransfers()
        return orders

    def take_counts(self) -> dict[str, float]:
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    # -- inside -----------------------------------------------------------------------------------

    def _tracked(self, request: Any) -> _TrackedRequest | None:
        if request.request_id not in self._requests:
            self._requests[request.request_id] = self._read(request)
        return self._requests[request.request_id]

    def _read(self, request: Any) -> _TrackedRequest | None:
        orders = read_orders(request.kv_transfer_params)
        if orders is None or orders.conversation is None or not request.prompt_token_ids:
            return None
        if request.mm_features or request.lora_request is not None:
            return None  # KV of images and adapters does not follow from the tokens alone
        kv = ConversationKV(orders.conversation)
        return None if self._ledger.is_gone(kv) else _TrackedRequest(kv)

    def _submit_lookup(
        self, request: Any, tracked: _TrackedRequest, computed: int
    ) -> LookupClient | None:
        """The client of the lookup; None: it is not worth it, or LMCache is not connected."""
        end = min(tracked.kv.conversation.end, request.num_prompt_tokens)
        if end - computed < self._least:
            return None
        client = self._link.get()
        if client is None:
            self._counts["lmcache_unanswered"] += 1
            return None
        chunk = client.chunk_tokens
        tokens = list(request.prompt_token_ids[: end // chunk * chunk])
        if len(tokens) - computed < self._least:
            return None
        tracked.end = len(tokens)
        with self._missing(client):
            client.submit_lookup(request.request_id, tokens, tracked.kv.salt)
        return client

    def _end_lookup(self, request: Any, tracked: _TrackedRequest, end: int) -> None:
        """End a lookup and unlock its chunks up to token `end`, which are not loaded."""
        client, tracked.lookup = tracked.client, _Lookup.OVER
        if client is None:
            return
        with self._missing(client):
            client.forget_lookup(request.request_id)
        if end > 0:
            tokens = list(request.prompt_token_ids[: tracked.hit])
            with self._missing(client):
                client.unlock(request.request_id, tokens, end, tracked.kv.salt)

    def _save(
        self, request: Any, tracked: _TrackedRequest, block_ids: Sequence[int]
    ) -> Transfer | None:
        """Record the chunks that LMCache lacks; None: it lacks none, or cannot be given them."""
        kv, client = tracked.kv, self._link.get()
        if client is None or self._ledger.is_gone(kv):
            return None
        chunk, size = client.chunk_tokens, self._endpoint.block_size
        end = min(kv.conversation.end, request.num_prompt_tokens) // chunk * chunk
        tokens = request.prompt_token_ids[:end]
        try:
            hashes = self._endpoint.hashes(tokens, chunk)
            new = self._ledger.unknown(kv, hashes)
            if not new:
                return None
            self._ledger.note(kv, new)
        except (OSError, LMCacheError) as error:
            log.warning("a conversation's KV is not saved: %s", error)
            self._counts["lmcache_save_failures"] += 1
            return None
        start = max(tracked.hit, hashes.index(new[0]) * chunk)
        if start >= end:
            return None
        tracked.client, tracked.saving = client, tuple(new)
        blocks = tuple(block_ids[start // size : end // size])
        return Transfer(request.request_id, kv.salt, tuple(tokens), blocks, start, end)

    def _end(self, request_id: str, tracked: _TrackedRequest) -> None:
        if tracked.client is not None:
            with self._missing(tracked.client):
                tracked.client.end_session(request_id)

    @contextlib.contextmanager
    def _missing(self, client: LookupClient) -> Iterator[None]:
        """Turn a failed call to LMCache into a miss, and make its connection again."""
        try:
            yield
        except LMCacheError as error:
            log.warning("%s", error, exc_info=error)
            self._link.lost(client)
