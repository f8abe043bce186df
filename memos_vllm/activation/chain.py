"""The segment chain: the cuts of a prompt's head, and the key of each segment's KV.

    [template header + client's system message] [cube] [cube] … [history] [history] …
                                               cut    cut      cut       cut

A segment's key is a digest over the model, the scope and all token ids up to its end: the same key
is the same KV, so nothing is approximate.  Cuts are found by construction: the tokens of the whole
must equal the tokens of the parts, joined; where they do not (a merge across a border), the chain
ends there and says so.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence

Encode = Callable[[str], Sequence[int]]
"""Text to token ids, without special tokens added."""

KEY_BYTES = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the prompt whose KV is saved: the tokens from the segment before it to `end`."""

    end: int
    scope: str
    """The narrowest scope among this segment and those before it; only its requests use the KV."""
    cubes: tuple[str, ...] = ()
    """`id@sequence` of every cube in or before this segment."""
    generation: int = 0
    """How often its scope had been forgotten when it was planned."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """The text of one cube at the head of the prompt, its line end included."""

    cube: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Located:
    """Token positions: `head`, then one behind each part; fewer where tokens merge across."""

    head: int
    ends: tuple[int, ...]
    text_start: int = 0
    """Characters of the prompt in front of memory."""
    problem: str | None = None


def chain_keys(fingerprint: bytes, tokens: Sequence[int], segments: Iterable[Segment]) -> list[str]:
    """The key of each segment, hex; independent of block size, process and hash seed.

    Where a segment starts is part of it: the same prompt, cut elsewhere, fills other files.
    """
    running = hashlib.sha256(b"memos kv 2\0")
    start = 0
    keys = []
    for segment in segments:
        running.update(token_bytes(tokens[start : segment.end]))
        key = hashlib.sha256(running.digest() + start.to_bytes(8, "little"))
        key.update(fingerprint + segment.scope.encode())
        start = segment.end
        keys.append(key.hexdigest()[: 2 * KEY_BYTES])
    return keys


def own_digest(tokens: Sequence[int]) -> str:
    """Digest of a segment's own tokens, independent of its prefix."""
    return hashlib.sha256(token_bytes(tokens)).hexdigest()[: 2 * KEY_BYTES]


def token_bytes(tokens: Sequence[int]) -> bytes:
    packed = array.array("I", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def locate(
    prompt: str, tokens: Sequence[int], opening: str, parts: Sequence[Part], encode: Encode
) -> Located:
    """Locate the parts, one after another behind `opening`, among the prompt's tokens.

    Args:
        prompt: the text that the engine's tokenizer turned into `tokens`.
        opening: text right before the first part; the head is the text before it.
        parts: in prompt order.
        encode: of the engine's tokenizer.
    """
    block = opening + "".join(part.text for part in parts)
    start = prompt.find(block)
    if start < 0:
        return Located(0, (), problem="the chat template changed the text of memory")
    if prompt.find(block, start + 1) >= 0:
        return Located(0, (), problem="the prompt contains the same memory twice")
    position = _match(tokens, 0, encode(prompt[: start + len(opening)]))
    if position is None:
        return Located(0, (), problem="tokens merge across the border of memory")
    head = position
    ends: list[int] = []
    for part in parts:
        position = _match(tokens, position, encode(part.text))
        if position is None:
            problem = f"tokens merge across the border of {part.cube}"
            return Located(head, tuple(ends), start, problem)
        ends.append(position)
    return Located(head, tuple(ends), start)


def history_cuts(
    tokens: Sequence[int], special: frozenset[int], start: int, limit: int, least: int
) -> list[int]:
    """Cuts between `start` and `limit`, at special tokens (no merge crosses one), `least` apart.

    A cut depends on the tokens before it alone, so the next turn of the conversation finds it again.
    """
    cuts, last = [], start
    for position in range(start, min(limit, len(tokens))):
        if position - last >= least and tokens[position] in special:
            cuts.append(position)
            last = position
    return cuts


def special_position(tokens: Sequence[int], special: frozenset[int], count: int) -> int:
    """Position of the `count`-th (from 1) special token; 0 where there are fewer."""
    for position, token in enumerate(tokens):
        if token in special:
            count -= 1
            if count == 0:
                return position
    return 0


def _match(tokens: Sequence[int], position: int, piece: Sequence[int]) -> int | None:
    end = position + len(piece)
    return end if list(tokens[position:end]) == list(piece) else None
