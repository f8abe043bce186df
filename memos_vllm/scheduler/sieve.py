"""Repetitions among search results: of the conversation, of the prompt, of one another, of the question.

A client that regenerates, monitors or evaluates asks one question many times.  Each asking is stored,
and is the best match of the next one, though it says nothing; so earlier askings and their replies take
one place of a prompt at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from memos_vllm.cube.model import ASSISTANT, Item, ItemType
from memos_vllm.plaintext.search.asking import AskedQuestion
from memos_vllm.plaintext.search.repeats import normal
from memos_vllm.plaintext.search.search import Found
from memos_vllm.prompt.messages import Message, last_user, text_of
from memos_vllm.vault.views import Recalled


class Sieve:
    """Tells which results say nothing new. Ask `problem` in the order of preference, and `take` what is used."""

    def __init__(
        self,
        results: Iterable[Found],
        messages: Sequence[Message],
        in_prompt: Set[str] = frozenset(),
        stable: Iterable[str] = (),
    ) -> None:
        """
        Args:
            results: all results that will be asked about.
            messages: the conversation; the last user text is the question.
            in_prompt: cubes that the prompt has whole.
            stable: texts of their items.
        """
        self._in_prompt = in_prompt
        self._conversation = [normal(text_of(message)) for message in messages]
        self._stable = {normal(text) for text in stable}
        self._seen: set[str] = set()
        self._place_of_repeats_taken = False
        position = last_user(messages)
        question = AskedQuestion(text_of(messages[position]) if position is not None else "")
        items = [each.recalled.item for each in results]
        self._askings = {id(item) for item in items if question.is_asked_by(item)}
        self._requests = {
            request for item in items if id(item) in self._askings and (request := _request(item))
        }

    def problem(self, result: Found) -> str | None:
        """Why a result says nothing new; None: it does."""
        item = result.recalled.item
        text = normal(item.text)
        if result.recalled.cube_id in self._in_prompt:
            return "the prompt has its cube already"
        if any(text in message for message in self._conversation):
            return "already in the conversation"
        if text in self._stable:
            return "the prompt says it already"
        if text in self._seen:
            return "the same words as a better item"
        if id(item) in self._askings:
            return "an earlier asking of the same question"
        if self._place_of_repeats_taken and _request(item) in self._requests:
            return "another reply to the same question"
        return None

    def take(self, result: Found) -> None:
        """Note that the prompt has a result."""
        item = result.recalled.item
        self._seen.add(normal(item.text))
        if _request(item) in self._requests:
            self._place_of_repeats_taken = True


def sifted(results: Sequence[Found], messages: Sequence[Message]) -> list[Found]:
    """The results that say something new, in their order."""
    sieve = Sieve(results, messages)
    new = []
    for result in results:
        if sieve.problem(result) is None:
            sieve.take(result)
            new.append(result)
    return new


def is_reply(recalled: Recalled) -> bool:
    """Whether an item is the assistant's reply, not the words of a person of that name."""
    item = recalled.item
    return (
        item.speaker == ASSISTANT
        and item.type is ItemType.EPISODE
        and recalled.person.casefold() != ASSISTANT
    )


def _request(item: Item) -> str | None:
    """Request of a chat's turn that the item belongs to; None: another origin."""
    request, _, part = (item.source or "").rpartition(":")
    return request if request and part in ("user", "reply") else None
