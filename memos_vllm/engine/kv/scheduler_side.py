"""The connector in the engine core: match segments in the store, order loads and saves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memos_vllm.activation.chain import Segment, own_digest
from memos_vllm.activation.hits import Loaded
from memos_vllm.activation.names import Namer, SegmentName
from memos_vllm.activation.orders import Orders, Source, read_orders
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tombstones import short
from memos_vllm.config.kv import KVConfig
from memos_vllm.engine.kv.events import SegmentEvents
from memos_vllm.engine.kv.messages import Load, Piece, Save, StepOrders
from memos_vllm.engine.kv.rates import Rates, SegmentRead
from memos_vllm.engine.kv.states import MISS, Match, When
from memos_vllm.parametric.adapter.folders import is_engine_name

_MOST_ATTEMPTS = 3
_LEAST_PREFILL = 32
"""Tokens in a step from which on they are prefill; fewer are decoding."""


@dataclasses.dataclass(slots=True)
class _Chain:
    """A request's chain, with the names of its segments on every worker."""

    segments: tuple[Segment, ...]
    names: list[tuple[SegmentName, ...]]
    save: bool
    moved: dict[int, Source]
    """Sources of the segments whose KV was made for another place in a prompt, approximate or compact."""
    is_near: bool = False
    required: int = 0
    """End of the last place of a compact: what is in front of it is loaded or cached, never computed."""
    compacts: frozenset[int] = frozenset()
    """Segments that are compacts."""
    attempts: int = 0
    """Loads ordered so far, also after a failure or a preemption; limited to `_MOST_ATTEMPTS`."""
    when: When = When.NEVER
    """When the last match is loaded."""
    reach: int = 0
    """Tokens that the last match covers, from the start of the prompt."""
    loaded: list[Loaded] = dataclasses.field(default_factory=list)
    """Of the last load."""

    def pieces(self, tokens: Sequence[int], chosen: Sequence[int]) -> tuple[Piece, ...]:
        starts = [0, *(segment.end for segment in self.segments)]
        pieces = []
        for i in chosen:
            segment, source = self.segments[i], self.moved.get(i)
            pieces.append(
                Piece(
                    dataclasses.replace(self.names[i][0], rank=""),
                    starts[i],
                    segment.end,
                    segment.cubes,
                    own_digest(tokens[starts[i] : segment.end]),
                    short(segment.scope),
                    segment.generation,
                    starts[i] - source.start if source is not None else 0,
                )
            )
        return tuple(pieces)


class SchedulerSide:
    def __init__(
        self,
        store: SegmentStore,
        namer: Namer,
        config: KVConfig,
        events: SegmentEvents | None = None,
    ) -> None:
        self._store = store
        self.events = events
        self._namer = namer
        self._least = config.segment_tokens
        self._recompute = config.near_recompute_tokens
        self._chains: dict[str, _Chain | None] = {}
        self._saving: dict[str, set[str]] = {}
        self._alive: set[str] = set()
        self._orders = StepOrders()
        self.rates = Rates()

    def arrived(self, request: Any) -> None:
        self._alive.add(request.request_id)

    def match(self, request: Any, computed: int) -> Match:
        """Tokens beyond `computed` that are worth loading."""
        chain = self._chain(request)
        if chain is None:
            return MISS
        if computed < chain.required:
            return self._required(request, chain, computed)
        if chain.attempts >= _MOST_ATTEMPTS:
            return MISS
        limit = request.num_prompt_tokens - 1
        count = self.rates.most_saving(self._reads(chain, computed, limit))
        chain.reach = chain.segments[count - 1].end if count else 0
        if chain.is_near:
            chain.reach = max(chain.reach - self._recompute, 0)
        end = min(chain.reach, limit)
        if end - computed < self._least:
            return MISS
        chain.when = self._when(request)
        return Match(end - computed, chain.when)

    def _required(self, request: Any, chain: _Chain, computed: int) -> Match:
        """The match of a prompt whose compacts the engine does not have.

        It covers them even where a file is missing: the load fails then, and with it the request
        (`patches.required_loads`), which the API process repeats with the text.
        """
        limit = request.num_prompt_tokens - 1
        count = self.rates.most_saving(self._reads(chain, computed, limit))
        reach = chain.segments[count - 1].end if count else 0
        chain.reach = max(reach, chain.required)
        chain.when = self._when(request)
        return Match(min(chain.reach, limit) - computed, chain.when)

    def _when(self, request: Any) -> When:
        """A single request is loaded and computed in one step; several run on during the load."""
        return When.IN_STEP if self._alive == {request.request_id} else When.BETWEEN_STEPS

    def _reads(self, chain: _Chain, computed: int, limit: int) -> Iterator[SegmentRead]:
        """The segments of this chain that are in the store, up to the first that is not."""
        start = 0
        for segment, names in zip(chain.segments, chain.names, strict=True):
            tiers = [self._store.where(name) for name in names]
            if None in tiers:
                return
            spared = max(min(segment.end, limit) - max(start, computed), 0)
            tokens = segment.end - start if spared else 0
            yield SegmentRead(spared, tokens, "disk" if "disk" in tiers else "ram")
            start = segment.end

    def allocated(self, request: Any, block_ids: Sequence[int], external: int) -> None:
        """Order the load of the last `external` matched tokens into the request's blocks."""
        chain = self._chain(request)
        if chain is None or external <= 0:
            return
        end = min(chain.reach, request.num_prompt_tokens - 1)
        starts = [0, *(segment.end for segment in chain.segments)]
        needed = [
            i
            for i, segment in enumerate(chain.segments)
            if segment.end > end - external and starts[i] < end
        ]
        chain.attempts += 1
        chain.loaded = [
            Loaded(
                max(starts[i], end - external),
                min(chain.segments[i].end, end),
                "disk" if "disk" in map(self._store.where, chain.names[i]) else "memory",
            )
            for i in needed
        ]
        pieces = chain.pieces(request.prompt_token_ids, needed)
        self._orders.loads.append(
            Load(
                request.request_id,
                tuple(block_ids),
                end - external,
                end,
                pieces,
                when=chain.when,
            )
        )

    def loaded(self, request: Any) -> list[Loaded]:
        """What was loaded for a request that has not finished, in the order of its prompt."""
        chain = self._chains.get(request.request_id)
        return [] if chain is None else chain.loaded

    def finished(self, request: Any, block_ids: Sequence[int]) -> bool:
        """Order a save of segments that the store lacks; True: the blocks stay until it is over."""
        chain = self._chain(request)
        self._chains.pop(request.request_id, None)
        self._alive.discard(request.request_id)
        if chain is None or not chain.save or request.num_output_tokens == 0:
            return False  # without a reply, the prefill may be incomplete
        if getattr(getattr(request, "status", None), "name", "") == "FINISHED_ERROR":
            return False
        in_flight = {key for keys in self._saving.values() for key in keys}
        chosen = [
            i
            for i, names in enumerate(chain.names)
            if i not in chain.compacts
            and names[0].key not in in_flight
            and not self._store.has_all(names)
        ]
        if not chosen:
            return False
        self._saving[request.request_id] = {chain.names[i][0].key for i in chosen}
        pieces = chain.pieces(request.prompt_token_ids, chosen)
        self._orders.saves.append(Save(request.request_id, tuple(block_ids), pieces))
        if self.events is not None:
            starts = [0, *(segment.end for segment in chain.segments)]
            parts = [(chain.names[i], starts[i], chain.segments[i].end) for i in chosen]
            self.events.saving(request, parts)
        return True

    def take_orders(self, scheduled: Mapping[str, int]) -> StepOrders:
        """Take the orders for the next step.

        Args:
            scheduled: tokens of each request in that step.
        """
        orders, self._orders = self._orders, StepOrders()
        orders.prefill_tokens = sum(n for n in scheduled.values() if n >= _LEAST_PREFILL)
        return orders

    def saved(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            self._saving.pop(request_id, None)
            if self.events is not None:
                self.events.saved(request_id)

    def _chain(self, request: Any) -> _Chain | None:
        if request.request_id not in self._chains:
            self._chains[request.request_id] = self._read(request)
        return self._chains[request.request_id]

    def _read(self, request: Any) -> _Chain | None:
        orders: Orders | None = read_orders(request.kv_transfer_params)
        if orders is None or not request.prompt_token_ids:
            return None
        if request.mm_features and not orders.compact:
            return None  # KV of images does not follow from the tokens alone
        namer = self._namer
        if (adapter := request.lora_request) is not None:
            if not is_engine_name(adapter.lora_name) and not orders.compact:
                return None  # the weights at its path may change
            namer = namer.under(adapter.lora_name)
        segments = tuple(s for s in orders.segments if s.end <= request.num_prompt_tokens)
        names = namer.names(request.prompt_token_ids, segments)
        moved = {source.segment: source for source in (*orders.near, *orders.compact)}
        for i, source in moved.items():
            if i < len(names):
                names[i] = tuple(
                    dataclasses.replace(name, scope=source.scope, key=source.key)
                    for name in names[i]
                )
        compacts = frozenset(source.segment for source in orders.compact)
        required = max((segments[i].end for i in compacts if i < len(segments)), default=0)
        return _Chain(segments, names, orders.save, moved, bool(orders.near), required, compacts)
