"""Names of segments: the path of a file below a tier, and the name of a mark in one folder."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from memos_vllm.activation.chain import Segment, chain_keys
from memos_vllm.activation.tombstones import short

_SEPARATOR = re.compile(r"[/+]")


def scope_folder(scope: str) -> str:
    """Folder of a scope's segments; a client's own salt (`scope/salt`) does not change it."""
    return short(scope.partition("/")[0])


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentName:
    """`<model>/<scope>/<key>[.<rank>]`; as the name of a mark, with `+` in place of `/`."""

    model: str
    scope: str
    """`scope_folder` of the scope."""
    key: str
    rank: str = ""
    """`1of2` where a model is spread over several workers: each saves its own heads."""

    @classmethod
    def of(cls, model: bytes, scope: str, key: str, rank: str = "") -> SegmentName:
        return cls(model.hex()[:16], scope_folder(scope), key, rank)

    @classmethod
    def parse(cls, text: str) -> SegmentName:
        """Read a path below a tier, or the name of a mark. Raises ValueError: it is neither."""
        model, scope, file = _SEPARATOR.split(text)
        key, _, rank = file.partition(".")
        return cls(model, scope, key, rank)

    @property
    def mark(self) -> str:
        """The name as that of a single file."""
        return str(self).replace("/", "+")

    def __str__(self) -> str:
        rank = f".{self.rank}" if self.rank else ""
        return f"{self.model}/{self.scope}/{self.key}{rank}"


@dataclasses.dataclass(frozen=True)
class Namer:
    """Names of a chain's segments under one model, alike in every process."""

    model: bytes
    ranks: tuple[str, ...] = ("",)

    def under(self, adapter: str) -> Namer:
        """The same model with an adapter attached, which computes other KV.

        Args:
            adapter: its name in the engine, which is a digest of its contents.
        """
        model = hashlib.sha256(self.model + adapter.encode()).digest()
        return dataclasses.replace(self, model=model)

    def at(self, scope: str, key: str) -> SegmentName:
        """A segment by its folder and key, on the first worker."""
        return SegmentName(self.model.hex()[:16], scope, key, self.ranks[0])

    def names(
        self, tokens: Sequence[int], segments: Sequence[Segment]
    ) -> list[tuple[SegmentName, ...]]:
        """For each segment, its file on every worker."""
        keys = chain_keys(self.model, tokens, segments)
        return [
            tuple(SegmentName.of(self.model, segment.scope, key, rank) for rank in self.ranks)
            for segment, key in zip(segments, keys, strict=True)
        ]
