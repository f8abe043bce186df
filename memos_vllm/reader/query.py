"""The reading side of MemReader: what a conversation wants from memory (`fast`: no model call)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from memos_vllm.reader.messages import Message, last_user, text_of

_SHORT_WORDS = 4
_LONGEST_CHARACTERS = 4000


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryQuery:
    text: str
    """The question; empty when the conversation asks nothing."""


def read_query(messages: Sequence[Message]) -> MemoryQuery:
    """The last user text. One too short to mean anything alone brings the one before it along."""
    position = last_user(messages)
    if position is None:
        return MemoryQuery("")
    text = text_of(messages[position]).strip()
    if len(text.split()) < _SHORT_WORDS:
        before = last_user(messages[:position])
        if before is not None:
            text = f"{text_of(messages[before]).strip()}\n{text}"
    return MemoryQuery(text[-_LONGEST_CHARACTERS:])
