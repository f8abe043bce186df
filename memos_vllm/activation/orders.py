"""Orders of the API process to the engine about one request, inside `kv_transfer_params`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm.activation.chain import Segment

FIELD = "memos"


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """KV of a segment's text that was computed elsewhere: approximate."""

    segment: int
    """Position of the segment in the chain."""
    scope: str
    """Folder of the file (`SegmentName.scope`)."""
    key: str
    start: int
    """Token position at which it was computed."""
    shared: int = 0
    """Cubes right before it that are the same in this prompt."""
    behind: int = 0
    """Cubes before it where it was computed."""
    kl: float | None = None
    """Measured cost of its KV in other contexts, nats; None: not measured yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    """The part of a prompt that the tier for conversations may save, and its scope."""

    end: int
    """Tokens from the start of the prompt; the next turn's prompt lacks the rest."""
    scope: str
    cubes: tuple[str, ...] = ()
    """`id@sequence` of every cube in it."""
    generation: int = 0
    """How often the scope had been forgotten when this was planned."""


@dataclasses.dataclass(frozen=True, slots=True)
class SharedHead:
    """The beginning of a prompt that the whole tenant may read: its blocks in the engine are the tenant's."""

    end: int
    """Tokens from the start of the prompt."""
    salt: str
    """Of these blocks; those behind have the request's own salt."""


@dataclasses.dataclass(frozen=True, slots=True)
class Orders:
    segments: tuple[Segment, ...]
    save: bool = True
    """Whether KV that this request computes may be saved."""
    near: tuple[Source, ...] = ()
    """Sources of the segments behind the exact ones, without a gap."""
    conversation: Conversation | None = None
    """None: the conversation is saved in segments, or not at all."""
    shared: SharedHead | None = None
    """None: all blocks have the request's own salt."""
    compact: tuple[Source, ...] = ()
    """Sources of the segments whose tokens are places of a compact: loaded, never computed."""

    def to_params(self) -> dict[str, Any]:
        """The orders as plain values, which every serializer of the engine carries."""
        return {
            FIELD: {
                "segments": [[s.end, s.scope, list(s.cubes), s.generation] for s in self.segments],
                "save": self.save,
                "near": [list(dataclasses.astuple(source)) for source in self.near],
                "compact": [list(dataclasses.astuple(source)) for source in self.compact],
                "conversation": _plain(self.conversation),
                "shared": list(dataclasses.astuple(self.shared)) if self.shared else None,
            }
        }


def read_orders(params: Mapping[str, Any] | None) -> Orders | None:
    """Read the orders in a request's `kv_transfer_params`; None: it has none from us."""
    raw = (params or {}).get(FIELD)
    if not isinstance(raw, Mapping):
        return None
    segments = tuple(
        Segment(int(end), str(scope), tuple(map(str, cubes)), int(generation))
        for end, scope, cubes, generation in raw.get("segments", ())
    )
    if not _ascending([segment.end for segment in segments]):
        return None
    near = tuple(Source(*source) for source in raw.get("near", ()))
    compact = tuple(Source(*source) for source in raw.get("compact", ()))
    save = bool(raw.get("save", True)) and not near
    conversation = _conversation(raw.get("conversation")) if save else None
    if not segments and conversation is None:
        return None
    return Orders(segments, save, near, conversation, shared_head(params), compact)


def has_places(params: Mapping[str, Any] | None) -> bool:
    """Whether the prompt holds places of a compact, which must not be computed."""
    raw = (params or {}).get(FIELD)
    return isinstance(raw, Mapping) and bool(raw.get("compact"))


def shared_head(params: Mapping[str, Any] | None) -> SharedHead | None:
    """Read the shared head alone; None: there is none, or blocks of the request are approximate."""
    raw = (params or {}).get(FIELD)
    if not isinstance(raw, Mapping) or raw.get("near"):
        return None
    found = raw.get("shared")
    return SharedHead(int(found[0]), str(found[1])) if found else None


def _plain(conversation: Conversation | None) -> list[Any] | None:
    if conversation is None:
        return None
    cubes = list(conversation.cubes)
    return [conversation.end, conversation.scope, cubes, conversation.generation]


def _conversation(raw: Any) -> Conversation | None:
    if not isinstance(raw, Sequence):
        return None
    end, scope, cubes, generation = raw
    if int(end) <= 0:
        return None
    return Conversation(int(end), str(scope), tuple(map(str, cubes)), int(generation))


def _ascending(ends: Sequence[int]) -> bool:
    return all(before < after for before, after in zip((0, *ends), ends, strict=False))
