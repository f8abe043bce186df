"""What the API process tells the engine about one request, inside `kv_transfer_params`."""

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
    """Token at which it stood where it was computed."""
    shared: int = 0
    """Cubes right before it that are the same here."""
    behind: int = 0
    """Cubes that stood before it there."""
    kl: float | None = None
    """What its KV cost in other places, nats; None: not measured yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Conversation:
    """What of the prompt the tier for conversations may keep, and whose it is."""

    end: int
    """Tokens from the start of the prompt; behind it stands what the next turn does not have."""
    scope: str
    cubes: tuple[str, ...] = ()
    """`id@sequence` of every cube whose text stands in it."""
    generation: int = 0
    """How often the scope had been forgotten when this was planned."""


@dataclasses.dataclass(frozen=True, slots=True)
class Orders:
    segments: tuple[Segment, ...]
    save: bool = True
    """Whether what this request computes may be kept."""
    near: tuple[Source, ...] = ()
    """Where the segments behind the exact ones come from; without a gap."""
    conversation: Conversation | None = None
    """None: it is kept in segments, or not at all."""

    def to_params(self) -> dict[str, Any]:
        """Plain values, which any of the engine's serializers carries."""
        return {
            FIELD: {
                "segments": [[s.end, s.scope, list(s.cubes), s.generation] for s in self.segments],
                "save": self.save,
                "near": [list(dataclasses.astuple(source)) for source in self.near],
                "conversation": _plain(self.conversation),
            }
        }


def read_orders(params: Mapping[str, Any] | None) -> Orders | None:
    """The orders in a request's `kv_transfer_params`; None where there are none of ours."""
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
    save = bool(raw.get("save", True)) and not near
    conversation = _conversation(raw.get("conversation")) if save else None
    if not segments and conversation is None:
        return None
    return Orders(segments, save, near, conversation)


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
