"""The steps of a chat that keep retrieved memory in front of a conversation's earlier messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from memos_vllm.ports import Chat
from memos_vllm.prompt.messages import last_user
from memos_vllm.scheduler.candidates import Candidates
from memos_vllm.scheduler.draft import Candidate, Draft
from memos_vllm.scheduler.kept import (
    NONE,
    Blocks,
    KeptItem,
    KeptMemory,
    digest_of,
    head_of,
    marks_of,
    still_true,
)

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem


class KeptSteps:
    def __init__(self, system: MemorySystem) -> None:
        self._views, self._limits_of = system.views, system.limits_of
        self._memory = KeptMemory(system.config.prompt.kept_tokens)
        system.erasures.listen(self._memory.forget)

    async def read(self, chat: Chat, memory: Candidates) -> tuple[str, Blocks]:
        """What the last prompt of this conversation had, where all of it may be used still.

        A request, or a tenant, with a limit of its own keeps nothing: its limit is for all memory in the prompt. Nor
        does a request without retrieval.

        Raises:
            VaultUnavailable
        """
        if not self._is_kept(chat):
            return NONE
        head, blocks = self._memory.of(chat.principal, chat.messages)
        ids = [item.entry.item or "" for items in blocks.values() for item in items]
        if not ids:
            return NONE
        recalled = await asyncio.to_thread(self._views.recall, chat.principal, ids)
        found = [*memory.found, *memory.further]
        return (head, blocks) if still_true(blocks, recalled, found) else NONE

    def note(self, chat: Chat, draft: Draft) -> None:
        """Keep what a prompt has, for the next one of its conversation."""
        position = last_user(chat.messages)
        if position is None or chat.options.without or not self._is_kept(chat):
            return
        blocks: dict[int, list[KeptItem]] = {}
        for candidate in draft.kept():
            blocks.setdefault(candidate.at or 0, []).append(_item(candidate))
        if fresh := [_item(each) for each in draft.retrieved()]:
            blocks[position] = fresh
        head = head_of([each.entry for each in draft.stable()])
        self._memory.note(chat.principal, chat.messages, head, blocks)

    def _is_kept(self, chat: Chat) -> bool:
        options = chat.options
        if not self._memory.is_on or options.as_of is not None or options.budget_tokens is not None:
            return False
        if not options.retrieve or options.top_k == 0:
            return False
        return self._limits_of(chat.principal.tenant).injected_tokens is None


def _item(candidate: Candidate) -> KeptItem:
    if candidate.kept is not None:
        return candidate.kept
    assert candidate.found is not None
    found = candidate.found
    return KeptItem(candidate.entry, candidate.text, digest_of(found.recalled), marks_of(found))
