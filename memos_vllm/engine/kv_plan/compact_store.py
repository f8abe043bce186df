"""Store a compact where the engine loads KV from."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from memos_vllm.activation.chain import KEY_BYTES, own_digest
from memos_vllm.activation.compacts import Compact, text_key
from memos_vllm.activation.files import Shape
from memos_vllm.activation.names import Namer, SegmentName
from memos_vllm.activation.quota import KVQuota
from memos_vllm.activation.tensors import TensorStore
from memos_vllm.activation.tombstones import short
from memos_vllm.cube.ids import CubeVersion, PersonId
from memos_vllm.cube.model import MemCube
from memos_vllm.engine.kv_plan.compact import Vocabulary
from memos_vllm.errors import SegmentsUnavailable, Unprocessable
from memos_vllm.governance.limits.policy import LimitsOf
from memos_vllm.governance.principal import Principal
from memos_vllm.governance.scope import Scopes
from memos_vllm.parametric.training.order import Report


@dataclasses.dataclass(frozen=True)
class CompactStore:
    store: TensorStore
    namer: Namer
    scopes: Scopes
    vocabulary: Vocabulary
    dtype: torch.dtype
    """Of the engine's KV cache."""
    quota: KVQuota
    limits_of: LimitsOf

    def keep(
        self, principal: Principal, cube: MemCube, text: str, file: Path, about: Report
    ) -> Compact:
        """Store a compact in place of an older one of the same text.

        Args:
            text: digest of the tokens of the cube's text in a served prompt.
            file: as `compacts.process` wrote it.

        Raises:
            Unprocessable: it is of other tokens, the cube is gone, or the tenant has its limit of KV.
            SegmentsUnavailable
        """
        kv, made_for = _read(file)
        if made_for["text"] != text:
            raise Unprocessable(
                "the tokenizer of the training cuts the text into other tokens than the engine's"
            )
        scope = self._scope(principal, cube)
        limit = self.limits_of(principal.tenant).kv_bytes
        if limit is not None and not self.quota.has_room(principal.tenant, [scope], limit):
            raise Unprocessable(f"the tenant has {limit} bytes of KV, its limit (`kv_bytes`)")
        generation = self.store.segments.generation(scope)
        digest = hashlib.sha256(kv.view(torch.uint8).numpy().tobytes()).hexdigest()
        key = hashlib.sha256(f"memos compact 1\0{scope}\0{digest}".encode()).hexdigest()
        name = SegmentName.of(self.namer.model, scope, key[: 2 * KEY_BYTES], self.namer.ranks[0])
        version = str(CubeVersion(cube.meta.id, cube.meta.sequence))
        compact = Compact(
            segment=str(name),
            cube=version,
            digest=digest,
            places=kv.shape[2],
            tokens=int(made_for["tokens"]),
            start=int(made_for["start"]),
            method=made_for["method"],
            ranks=self.namer.ranks,
            kl=about.kl,
            recall=_share(about),
        )
        note = text_key(self.namer.model, scope, cube.meta.id, text)
        with _as_unavailable():
            older = self.store.segments.compacts.read(cube.meta.id, note)
            for rank, heads in zip(self.namer.ranks, self._shares(kv), strict=True):
                self._add(dataclasses.replace(name, rank=rank), heads, compact, scope, generation)
            self.store.segments.compacts.write(note, compact)
            if older is not None and older.segment != compact.segment:
                for rank in older.ranks:
                    self.store.segments.wipe_segment(dataclasses.replace(older.name, rank=rank))
        return compact

    def _add(
        self, name: SegmentName, kv: torch.Tensor, compact: Compact, scope: str, generation: int
    ) -> None:
        layers, _, places, heads, size = kv.shape
        metadata = {
            "digest": own_digest(self.vocabulary.places(compact)),
            "start": str(compact.start),
            "model": name.model,
            "scope": short(scope),
            "compact": compact.method,
        }
        shape = Shape(layers, places, heads, size, self.dtype)
        if not self.store.add(name, shape, kv, [compact.cube], metadata, generation):
            raise Unprocessable("the cube was deleted or changed meanwhile, or the disk is full")

    def _shares(self, kv: torch.Tensor) -> Iterator[torch.Tensor]:
        """The heads of each worker. Raises Unprocessable: they cannot be divided."""
        count = len(self.namer.ranks)
        if kv.shape[3] % count:
            raise Unprocessable(f"{kv.shape[3]} heads are not divided among {count} workers")
        for part in kv.to(self.dtype).chunk(count, dim=3):
            yield part.contiguous()

    def _scope(self, principal: Principal, cube: MemCube) -> str:
        if cube.meta.person is None:
            return self.scopes.tenant(principal)
        return self.scopes.person(dataclasses.replace(principal, person=PersonId(cube.meta.person)))


def _read(file: Path) -> tuple[torch.Tensor, dict[str, str]]:
    """(KV, metadata). Raises SegmentsUnavailable."""
    try:
        with safe_open(file, framework="pt") as opened:
            about: dict[str, str] = opened.metadata()
            return opened.get_tensor("kv"), about
    except (OSError, SafetensorError) as error:
        raise SegmentsUnavailable(f"the compact cannot be read: {error}") from error


def _share(report: Report) -> float | None:
    recall = report.recall
    if recall is None or not recall.ceiling:
        return None
    return round(recall.adapter / recall.ceiling, 4)


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SegmentsUnavailable(f"the compact cannot be stored: {error}") from error
