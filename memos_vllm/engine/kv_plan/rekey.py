"""Moves stored KV under the newest secret, as requests find it.

A scope is an HMAC, so that a rotated secret names other files.  Where a request's segments are stored under
an older secret only, they are written again under the newest one, and the older files are wiped.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence

from memos_vllm.activation.chain import Segment
from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.names import Namer, SegmentName
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.activation.tombstones import short
from memos_vllm.errors import DamagedPayload
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Rekeyer:
    store: TensorStore
    namer: Namer
    scopes: Scopes

    async def move(
        self,
        principal: Principal,
        client_salt: str | None,
        tokens: Sequence[int],
        segments: Sequence[Segment],
    ) -> int:
        """Move a prompt's segments from older secrets; returns how many files. Free without a rotation."""
        older = self.scopes.older(principal, client_salt)
        if not older or not segments:
            return 0
        return await asyncio.to_thread(self._move, older, tokens, segments)

    def _move(
        self,
        older: Sequence[dict[str, str]],
        tokens: Sequence[int],
        segments: Sequence[Segment],
    ) -> int:
        moved, names = 0, self.namer.names(tokens, segments)
        for scopes in older:
            before = [dataclasses.replace(s, scope=scopes.get(s.scope, s.scope)) for s in segments]
            for i, old_names in enumerate(self.namer.names(tokens, before)):
                for old, new in zip(old_names, names[i], strict=True):
                    moved += self._move_one(old, new, segments[i])
        return moved

    def _move_one(self, old: SegmentName, new: SegmentName, segment: Segment) -> bool:
        segments = self.store.segments
        if old == new or segments.where(new) is not None or segments.where(old) is None:
            return False
        try:
            with self.store.open(old) as (reader, _):
                about = dict(reader.metadata) | {"scope": short(segment.scope)}
                cubes = about.pop("cubes", "").split()
                layers = reader.layers(Scratch())
                is_kept = self.store.add(
                    new, reader.shape, layers, cubes, about, segment.generation
                )
        except (OSError, DamagedPayload) as error:
            log.warning("KV of an older secret is computed again: %s", error)
            return False
        if is_kept:
            segments.wipe_segment(old)
        return is_kept
