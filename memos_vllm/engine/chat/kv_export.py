"""Export of stored KV for transform jobs, which run in threads of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from memos_vllm.activation import files
from memos_vllm.activation.chain import own_digest
from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.names import SegmentName
from memos_vllm.activation.store import SegmentStore
from memos_vllm.cube.ids import TenantId
from memos_vllm.cube.model import MemCube
from memos_vllm.engine.chat.activator import EngineActivator
from memos_vllm.engine.kv_plan.compact_store import CompactStore
from memos_vllm.errors import MemosError, SegmentsUnavailable, Unprocessable
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.parametric.training.order import Context, Report
from memos_vllm.prompt.layout import quote_cube
from memos_vllm.vault.jobs import HEADS

log = logging.getLogger(__name__)


class EngineKV:
    """Implements `transforms.recover.KeptKV`."""

    def __init__(
        self,
        activator: EngineActivator,
        loop: asyncio.AbstractEventLoop,
        compacts: CompactStore,
    ) -> None:
        self._activator, self._loop, self._compacts = activator, loop, compacts

    def build(self, principal: Principal, cube: str) -> None:
        work = self._activator.activate(principal, [cube], None)
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def jobs(self) -> dict[str, Callable[[str], None]]:
        """Handlers of jobs of the durable queue."""
        return {HEADS: self._build_heads}

    def _build_heads(self, tenant: str) -> None:
        """Build the KV of what stands in every prompt of a tenant.

        Raises:
            SegmentsUnavailable: it was computed and not stored.
        """
        work = self._activator.activate(Principal(TenantId(tenant), Role.ADMIN, "store"), [], None)
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except Unprocessable as error:
            log.info("the KV of tenant %s's prompts is built when it is used: %s", tenant, error)

    def export(self, principal: Principal, cubes: Sequence[str], file: Path) -> Context:
        work = self._activator.head(principal, list(cubes))
        head = asyncio.run_coroutine_threadsafe(work, self._loop).result()
        if any(name.rank for name in head.names):
            raise Unprocessable(
                "the model is spread over several workers: each has a part of its KV"
            )
        kv = read_chain(self._activator.store, head.names)
        save_file({"kv": kv}, file)
        return Context(tokens=head.tokens, texts=head.texts)

    def keep_compact(self, principal: Principal, cube: MemCube, file: Path, about: Report) -> None:
        self._compacts.keep(principal, cube, self.digest(cube), file, about)
        work = self._activator.build_front(principal, cube.meta.id)
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except MemosError as error:  # the first request has it built
            about.reasons.append(f"the KV in front of it is not built yet: {error.message}")

    def digest(self, cube: MemCube) -> str:
        renderer = self._activator.renderer
        text = quote_cube(cube.meta.name, cube.items, renderer.tokenizer.escape)
        tokens = renderer.inner_tokenizer.encode(f"{text}\n", add_special_tokens=False)
        return own_digest(tokens)


def read_chain(store: SegmentStore, names: Sequence[SegmentName]) -> torch.Tensor:
    """KV of consecutive segments, each layer checked.

    Returns:
        (layers, 2, tokens, kv_heads, head_dim)

    Raises:
        DamagedPayload, SegmentsUnavailable
    """
    parts = []
    for name in names:
        try:
            with files.SegmentReader(store.disk.path(str(name))) as reader:
                scratch = Scratch()
                parts.append(torch.stack([each.clone() for each in reader.layers(scratch)]))
        except OSError as error:
            raise SegmentsUnavailable(f"stored KV cannot be read: {error}") from error
    return torch.cat(parts, dim=2).contiguous()
