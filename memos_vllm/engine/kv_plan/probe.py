"""Divergence of KV from another context, measured with probe questions.

Runs in the background after a chain was built exactly, while KV of its cubes from other contexts is
stored: each is loaded alone among exact segments, and the first token's distribution is compared with
that of the exact chain.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.orders import Orders, Source
from memos_vllm.activation.quality import Quality, divergence
from memos_vllm.activation.store import SegmentStore
from memos_vllm.cube.ids import CubeVersion
from memos_vllm.engine.kv_plan.builder import ChainBuilder

_MOST_PROBES = 24
"""Probes of one context, after which its mean is known well enough."""
TailOf = Callable[[str], Awaitable[list[int] | None]]
"""Tokens behind memory for a question, up to the reply; None: the chat template hides them."""


@dataclasses.dataclass
class Probe:
    builder: ChainBuilder
    store: SegmentStore
    questions: Sequence[str]
    tail_of: TailOf

    async def measure(
        self, tokens: Sequence[int], segments: Sequence[Segment], sources: Sequence[Source]
    ) -> None:
        """Compare each source, loaded among exact segments, with the exact chain.

        Args:
            segments: from the first token on, stored exactly.
        """
        wanted = [source for source in sources if self._probes(source) < _MOST_PROBES]
        if not wanted or not self.builder.sees_logprobs:
            return
        for question in self.questions:
            tail = await self.tail_of(question)
            if tail is None:
                return
            prompt = [*tokens[: segments[-1].end], *tail]
            exact = await self._first_token(prompt, segments, ())
            for source in wanted:
                near = await self._first_token(prompt, segments, (source,))
                if exact and near:
                    await asyncio.to_thread(self._note, source, segments, exact, near)

    async def _first_token(
        self, prompt: list[int], segments: Sequence[Segment], near: tuple[Source, ...]
    ) -> Mapping[Hashable, float]:
        """Log-probabilities by token id; empty where some KV had to be computed."""
        orders = Orders(tuple(segments), save=False, near=near)
        reached, logprobs = await self.builder.ask(prompt, secrets.token_hex(16), orders)
        return logprobs if reached >= segments[-1].end else {}

    def _note(
        self,
        source: Source,
        segments: Sequence[Segment],
        exact: Mapping[Hashable, float],
        near: Mapping[Hashable, float],
    ) -> None:
        name, segment = self._name(source), segments[source.segment]
        cube = CubeVersion.parse(segment.cubes[-1]).cube if segment.cubes else ""
        known = self.store.quality.read(name) or Quality(0, 0.0, 0.0, cube, source.behind)
        is_same = max(exact, key=exact.__getitem__) == max(near, key=near.__getitem__)
        self.store.quality.write(name, known.with_probe(divergence(exact, near), is_same))

    def _probes(self, source: Source) -> int:
        known = self.store.quality.read(self._name(source))
        return known.probes if known else 0

    def _name(self, source: Source) -> SegmentName:
        return self.builder.namer.at(source.scope, source.key)
