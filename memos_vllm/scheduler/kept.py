"""Retrieved memory that stays in front of the earlier messages of a conversation.

A client sends its history without memory. Where the next prompt leaves out what stood in front of the message
before, the engine's prefix cache ends there: that message and its reply are computed again. With
`prompt.kept_tokens` each message keeps its memory, and the new turn computes what is new alone.

What is kept is a reference: before each use the items are read again with the principal's rights. A block goes,
with all others of its conversation, once an item in it was changed, deleted, ended or taken away, and when the
head of the prompt has changed, behind which nothing is cached. So does everything at the limit, at once: what
slides would break the prefix in every turn. Texts are in this process's memory alone, as in the search index.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from cachetools import LRUCache

from memos_vllm.governance.principal import Principal
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt.messages import Message, users
from memos_vllm.scheduler.plan import PlanEntry
from memos_vllm.vault.views import Recalled

_MOST_CONVERSATIONS = 4096
REASON = "kept in front of an earlier message of the conversation"


Marks = tuple[datetime | None, datetime | None]
"""End of an item's validity, and time of a later statement on the same thing."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeptItem:
    """One retrieved item, as an earlier prompt of the conversation had it."""

    entry: PlanEntry
    text: str
    digest: str
    """Of the item, with its claim."""
    marks: Marks
    """Its validity then."""

    def again(self) -> PlanEntry:
        """Its entry in the plan of another prompt."""
        return self.entry.model_copy(
            update={"kept": True, "reason": REASON, "signals": {}, "score": None}
        )


Blocks = Mapping[int, Sequence[KeptItem]]
"""Position of a user's message → items in front of it, in their order."""
NONE: tuple[str, Blocks] = ("", {})
"""(head of the prompt, blocks): nothing is kept."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Conversation:
    tenant: str
    person: str
    head: str
    blocks: Blocks


class KeptMemory:
    """Kept memory of the newest conversations. Used from several threads."""

    def __init__(self, most_tokens: int) -> None:
        """
        Args:
            most_tokens: of all kept items of a conversation; 0: none are kept.
        """
        self._most_tokens = most_tokens
        self._known: LRUCache[bytes, _Conversation] = LRUCache(_MOST_CONVERSATIONS)
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        return self._most_tokens > 0

    def of(self, principal: Principal, messages: Sequence[Message]) -> tuple[str, Blocks]:
        """(head of the prompt before, its blocks); no blocks: the conversation is new here, or was changed."""
        positions = users(messages)
        if len(positions) < 2:
            return NONE
        with self._lock:
            found = self._known.get(_key(principal, messages[: positions[-2] + 1]))
        if found is None or _tokens(found.blocks) > self._most_tokens:
            return NONE
        return found.head, found.blocks

    def note(
        self, principal: Principal, messages: Sequence[Message], head: str, blocks: Blocks
    ) -> None:
        """Keep the blocks of a prompt.

        Args:
            head: `head_of` its stable cubes.
        """
        positions = users(messages)
        if not positions or not self.is_on:
            return
        made = _Conversation(principal.tenant, principal.person, head, blocks)
        with self._lock:
            self._known[_key(principal, messages[: positions[-1] + 1])] = made

    def forget(self, is_gone: Callable[[str, str], bool]) -> None:
        """Drop what is kept of persons, by tenant and person."""
        with self._lock:
            for key, each in list(self._known.items()):
                if is_gone(each.tenant, each.person):
                    self._known.pop(key, None)


def still_true(
    blocks: Blocks, recalled: Mapping[str, Recalled], found: Sequence[Found] = ()
) -> bool:
    """Whether every kept item is as it was.

    Args:
        recalled: the kept items that the principal's prompts may hold now, by id.
        found: what the new question finds; its validity was looked up anew.
    """
    marks = {each.recalled.item.id: marks_of(each) for each in found}
    return all(
        (now := recalled.get(item.entry.item or "")) is not None
        and digest_of(now) == item.digest
        and marks.get(item.entry.item, item.marks) == item.marks
        for items in blocks.values()
        for item in items
    )


def marks_of(found: Found) -> Marks:
    return found.over, found.followed


def digest_of(recalled: Recalled) -> str:
    return hashlib.sha256(recalled.item.model_dump_json().encode()).hexdigest()


def head_of(entries: Sequence[PlanEntry]) -> str:
    """Digest of the cubes at the head of a prompt."""
    return hashlib.sha256(
        repr([(each.cube, each.version) for each in entries]).encode()
    ).hexdigest()


def _tokens(blocks: Blocks) -> int:
    return sum(item.entry.tokens for items in blocks.values() for item in items)


def _key(principal: Principal, messages: Sequence[Message]) -> bytes:
    """Of a conversation up to one of its messages, as this principal has it."""
    whose = (principal.tenant, principal.person, principal.persona, principal.key_id)
    said = json.dumps([whose, list(messages)], default=str, sort_keys=True)
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()
