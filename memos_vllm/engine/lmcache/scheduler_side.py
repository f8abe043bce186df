"""LMCache in the engine core: what it has of a conversation, and what of one it is given.

A request is looked up when it is scheduled, its KV is loaded while others run on, and what is new is
handed over after its reply.  Where LMCache does not answer, everything is computed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

from memos_vllm.activation.orders import Conversation, read_orders
from memos_vllm.activation.store import SegmentStore, short
from memos_vllm.config import KVConfig
from memos_vllm.engine.lmcache.adapters import Endpoint
from memos_vllm.engine.lmcache.link import Link
from memos_vllm.engine.lmcache.messages import StepTransfers, Transfer

log = logging.getLogger("vllm.memos_kv")
_KNOWN_SALTS = 1024
_POLL_SECONDS = 0.001


@dataclasses.dataclass(slots=True)
class _Followed:
    """A request whose conversation LMCache may keep."""

    conversation: Conversation
    salt: str
    asked: float | None = None
    """When the lookup was sent whose answer is not used yet."""
    adapter: Any = None
    """The connection that it was sent over."""
    hit: int = 0
    """Tokens that LMCache has, and keeps from eviction until they are loaded or given up."""
    done: bool = False
    """Looked up, and loaded or not: a request is not looked up again."""

    @property
    def cubes(self) -> list[str]:
        return [short(cube.partition("@")[0]) for cube in self.conversation.cubes]

    @property
    def scope(self) -> str:
        return short(self.conversation.scope.partition("/")[0])


class SchedulerSide:
    def __init__(
        self, store: SegmentStore, endpoint: Endpoint, link: Link[Any], config: KVConfig
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._link = link
        self._config = config
        self._requests: dict[str, _Followed | None] = {}
        self._saving: dict[str, tuple[_Followed, Any]] = {}
        self._known: OrderedDict[str, set[bytes]] = OrderedDict()
        """By salt, the chunks that LMCache was given by this process, or had."""
        self._orders = StepTransfers()
        self._hashers: dict[int, Any] = {}
        self._counts: Counter[str] = Counter()

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """(tokens beyond `computed` that LMCache has; None: ask again, loaded while others run)."""
        followed = self._followed(request)
        if followed is None or followed.done:
            return 0, False
        if followed.asked is None and not self._ask(request, followed, computed):
            followed.done = True
            return 0, False
        hit = self._call(followed.adapter, "check_lookup_result", request.request_id, default=0)
        if hit is None:
            time.sleep(_POLL_SECONDS)  # the answer comes to another thread of this process
            return None, False
        if not followed.adapter.is_healthy:
            self._counts["lmcache_unanswered"] += 1
        followed.hit = hit
        end = min(hit, request.num_prompt_tokens - 1)
        if end - computed < self._config.segment_tokens:
            return 0, False
        return end - computed, True

    def allocated(self, request: Any, block_ids: Sequence[int], external: int) -> None:
        followed = self._requests.get(request.request_id)
        if followed is None or followed.asked is None:
            return
        chunk, size = followed.adapter.lmcache_tokens_per_chunk, self._endpoint.block_size
        computed = min(followed.hit, request.num_prompt_tokens - 1) - external
        start = computed // chunk * chunk if external else followed.hit
        if external:
            self._orders.loads.append(
                Transfer(
                    request.request_id,
                    followed.salt,
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
        if followed.asked is not None:
            self._let_go(request, followed, followed.hit)
        adapter = self._link.get()
        if request.num_output_tokens == 0 or adapter is None:
            self._end(request.request_id, followed.adapter)
            return False  # without a reply, not all of the prompt was computed
        save = self._save(request, followed, block_ids, adapter)
        if save is None:
            self._end(request.request_id, followed.adapter)
            return False
        self._orders.saves.append(save)
        self._saving[request.request_id] = (followed, adapter)
        return True

    def saved(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            if request_id not in self._saving:
                continue
            followed, adapter = self._saving.pop(request_id)
            self._end(request_id, adapter)
            if self._store.any_gone(followed.conversation.cubes):
                self._known.pop(followed.salt, None)
                threading.Thread(target=self._forget, args=(followed.cubes,), daemon=True).start()

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
        if self._store.any_gone(orders.conversation.cubes):
            return None
        return _Followed(orders.conversation, salt_of(orders.conversation))

    def _ask(self, request: Any, followed: _Followed, computed: int) -> bool:
        """Send the lookup; False: there is nothing to be gained, or nobody to be asked."""
        end = min(followed.conversation.end, request.num_prompt_tokens)
        if end - computed < self._config.segment_tokens:
            return False
        adapter = self._link.get()
        if adapter is None:
            self._counts["lmcache_unanswered"] += 1
            return False
        chunk = adapter.lmcache_tokens_per_chunk
        tokens = list(request.prompt_token_ids[: end // chunk * chunk])
        if len(tokens) - computed < self._config.segment_tokens:
            return False
        followed.asked, followed.adapter = time.monotonic(), adapter
        self._call(
            adapter,
            "maybe_submit_lookup_request",
            request.request_id,
            token_ids=tokens,
            cache_salt=followed.salt,
        )
        return True

    def _let_go(self, request: Any, followed: _Followed, end: int) -> None:
        """The lookup is used: what it found up to `end` is not needed after all."""
        adapter, followed.asked, followed.done = followed.adapter, None, True
        self._call(adapter, "cleanup_lookup_result", request.request_id)
        if end > 0:
            self._call(
                adapter,
                "free_lookup_locks",
                token_ids=list(request.prompt_token_ids[: followed.hit]),
                start=0,
                end=end,
                request_id=request.request_id,
                cache_salt=followed.salt,
            )

    def _save(
        self, request: Any, followed: _Followed, block_ids: Sequence[int], adapter: Any
    ) -> Transfer | None:
        """None: there is nothing that LMCache does not have."""
        cubes, scope, salt = followed.cubes, followed.scope, followed.salt
        chunk, size = adapter.lmcache_tokens_per_chunk, self._endpoint.block_size
        end = min(followed.conversation.end, request.num_prompt_tokens) // chunk * chunk
        if end == 0 or self._store.any_gone(followed.conversation.cubes):
            return None
        tokens = request.prompt_token_ids[:end]
        hasher = self._hashers.setdefault(chunk, self._endpoint.hasher(chunk))
        hashes = hasher.compute_chunk_hashes(list(tokens))
        known = self._known_under(followed)
        new = [each for each in hashes if each not in known]
        if not new:
            return None
        try:
            self._store.remote.note(cubes, scope, salt, self._endpoint.keys(salt, new))
        except OSError as error:
            log.warning("a conversation's KV is not kept: %s", error)
            self._counts["lmcache_save_failures"] += 1
            return None
        known.update(new)
        start = max(followed.hit, hashes.index(new[0]) * chunk)
        if start >= end:
            return None
        blocks = tuple(block_ids[start // size : end // size])
        return Transfer(request.request_id, salt, tuple(tokens), blocks, start, end)

    def _known_under(self, followed: _Followed) -> set[bytes]:
        salt = followed.salt
        if not self._store.remote.has(followed.cubes, followed.scope, salt):
            self._known.pop(salt, None)
        known = self._known.setdefault(salt, set())
        self._known.move_to_end(salt)
        if len(self._known) > _KNOWN_SALTS:
            self._known.popitem(last=False)
        return known

    def _forget(self, cubes: Sequence[str]) -> None:
        try:
            for cube in cubes:
                self._store.remote.forget_cube(cube)
        except OSError as error:
            log.warning("KV of a cube deleted meanwhile is still kept: %s", error)

    def _end(self, request_id: str, adapter: Any) -> None:
        if adapter is not None:
            self._call(adapter, "end_session", request_id)

    def _call(self, adapter: Any, method: str, *args: Any, default: Any = None, **how: Any) -> Any:
        """A call to LMCache: one that fails is a miss, and the connection is made again."""
        try:
            return getattr(adapter, method)(*args, **how)
        except Exception as error:
            log.warning("LMCache fails at %s: %r", method, error)
            self._link.lost(adapter)
            return default


def salt_of(conversation: Conversation) -> str:
    """The only name under which a conversation's KV is found: whose it is, and behind which cubes.

    A cube that changes is another `id@sequence`, so nothing of the old is ever found again.
    """
    text = "\0".join(("memos lmcache 1", conversation.scope, *conversation.cubes))
    return hashlib.sha256(text.encode()).hexdigest()[:40]
