"""Where the KV of a prompt's cached tokens came from: reported by the engine, told in the reply.

The connector's scheduler side knows what it had loaded; it returns that with the request's end, inside
vLLM's `kv_transfer_params`.  The API process takes it out again, and adds what the engine's own prefix
cache had.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from memos_vllm.activation.orders import FIELD

Source = Literal["engine", "memory", "disk", "lmcache"]
"""Blocks of the engine, files in shared memory, files on disk or LMCache; the last two may be of another
server."""
Kind = Literal["exact", "near", "compact", "conversation"]


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """Tokens of a prompt whose KV a connector loaded."""

    start: int
    end: int
    source: Source


@dataclasses.dataclass(frozen=True, slots=True)
class Hits:
    """A number of cached tokens of one kind and source."""

    kind: Kind
    source: Source
    tokens: int


def to_params(loaded: Iterable[Loaded]) -> dict[str, Any] | None:
    """For the end of a request in the engine; None: nothing was loaded."""
    plain = [list(dataclasses.astuple(each)) for each in loaded]
    return {FIELD: {"loaded": plain}} if plain else None


def take(output: Any) -> list[Loaded] | None:
    """Take the report out of an output of the engine, so that no client gets it; None: it has none."""
    params = getattr(output, "kv_transfer_params", None)
    if not isinstance(params, dict) or FIELD not in params:
        return None
    rest = {name: value for name, value in params.items() if name != FIELD}
    output.kv_transfer_params = rest or None
    return [Loaded(*each) for each in params[FIELD]["loaded"]]


def hits_of(
    cached: int,
    loaded: Sequence[Loaded],
    head: int,
    near: Sequence[tuple[int, int]] = (),
    compact: Sequence[tuple[int, int]] = (),
) -> list[Hits]:
    """Cached tokens by kind and source, in the order of the prompt.

    Args:
        cached: tokens from the start of the prompt, as the engine reports them: fewer than were loaded where
            a load failed.
        head: tokens in front of the conversation.
        near: (start, end) of approximate segments.
        compact: (start, end) of the places of each compact.
    """
    borders = {0, cached, head, *(b for each in loaded for b in (each.start, each.end))}
    borders.update(border for each in (*near, *compact) for border in each)
    ordered = sorted(border for border in borders if 0 <= border <= cached)
    found: list[Hits] = []
    for start, end in itertools.pairwise(ordered):
        kind: Kind = "exact" if start < head else "conversation"
        if any(low <= start < high for low, high in near):
            kind = "near"
        elif any(low <= start < high for low, high in compact):
            kind = "compact"
        sources = [each.source for each in loaded if each.start <= start < each.end]
        source: Source = sources[0] if sources else "engine"
        if found and (found[-1].kind, found[-1].source) == (kind, source):
            found[-1] = dataclasses.replace(found[-1], tokens=found[-1].tokens + end - start)
        else:
            found.append(Hits(kind, source, end - start))
    return found
