"""Attribution of a reply's sentences to memory: leave one out, teacher-forced.

The served model scores the same reply with all the memory that it used, and once without each item: the chat route's
`memory.without` takes an item out of the prompt and leaves all else where it was. An item explains a sentence as far as
the mean log-probability of the sentence's tokens drops without it. Two items that say the same explain nothing each:
the other one is still there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from memos_vllm.console.chat import Chats, Refusal, Reply, Scores
from memos_vllm.prompt.sentences import sentences

MOST = 8
"""Items that are left out, one request each; the best first."""
THRESHOLD = 0.1
"""Nats per token: a sentence rests on an item without which its tokens are less likely by a factor of e^0.1 (10 %) in
the geometric mean, or more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sentence:
    text: str
    tokens: int
    drops: tuple[float, ...]
    """Nats per token, for each item that was left out; negative: the sentence is more likely without it."""

    @property
    def rests_on(self) -> list[int]:
        """Numbers of items, from 1, the largest drop first."""
        ranked = sorted(range(len(self.drops)), key=lambda n: -self.drops[n])
        return [n + 1 for n in ranked if self.drops[n] > THRESHOLD]


@dataclasses.dataclass(frozen=True, slots=True)
class Attribution:
    items: tuple[str, ...]
    """Ids of the items that were left out, in the order of the drops; of the cube where it is a whole one."""
    further: int
    """Items that were not left out."""
    sentences: tuple[Sentence, ...]
    requests: int
    prompt_tokens: int
    cached_tokens: int
    """Of the prompts' tokens."""
    took_ms: float


class Unmatched(Exception):
    """What was scored is not the reply with its memory, so that no sentence is attributed."""


async def attribute(
    chats: Chats, message: str, reply: Reply, memory: Mapping[str, Any]
) -> Attribution | Refusal:
    """Score a reply with its memory and without each item of it, one request after the other.

    Args:
        memory: the field `memory` of the request that was replied to, without writing.

    Raises:
        Unmatched: memory has changed, or the reply's tokens are not found in the prompt.
    """
    used = ids_of(reply.memory or {})
    if not used or not sentences(reply.text):
        raise Unmatched("the reply used no text of memory, or is empty")
    scored: list[Scores] = []
    for left_out in (None, *used[:MOST]):
        options = {**memory, "write": False, "kv": "none"}
        if left_out is not None:
            options["without"] = [left_out]
        scores = await chats.score(message, reply.text, options)
        if isinstance(scores, Refusal):
            return scores
        if set(ids_of(scores.memory)) != set(used) - {left_out}:
            raise Unmatched("memory has changed since the reply: send the message again")
        scored.append(scores)
    means = [_means(reply.text, scores.tokens) for scores in scored]
    whole, without = means[0], means[1:]
    rows = [
        Sentence(text, count, tuple(mean - other[n][2] for other in without))
        for n, (text, count, mean) in enumerate(whole)
    ]
    return Attribution(
        tuple(used[:MOST]),
        max(len(used) - MOST, 0),
        tuple(rows),
        len(scored),
        sum(scores.prompt_tokens for scores in scored),
        sum(scores.cached_tokens for scores in scored),
        sum(scores.took_ms for scores in scored),
    )


def ids_of(memory: Mapping[str, Any]) -> list[str]:
    """Ids of the items in a prompt by score, then of the whole cubes at its head; adapters are no text."""
    cubes = [cube for cube in memory.get("cubes", []) if cube.get("form") != "adapter"]
    items = [item for cube in cubes for item in cube["items"]]
    ranked = sorted(items, key=lambda item: -(item.get("score") or 0.0))
    return [item["id"] for item in ranked] + [cube["id"] for cube in cubes if not cube["items"]]


def _means(reply: str, tokens: Sequence[tuple[str, float]]) -> list[tuple[str, int, float]]:
    """Each sentence with the number of its tokens and their mean log-probability.

    A token is of the sentence in which its first visible character stands; one without text is the beginning of a
    character that the next token ends. White space is not compared: templates strip it, and some tokenizers decode it
    with another token.

    Args:
        tokens: of the prompt, which ends with the reply.

    Raises:
        Unmatched
    """
    owners = _owners(reply)
    of_reply, at = [], len(owners)
    for text, logprob in reversed(tokens):
        if at <= 0:
            break
        at -= _visible(text)
        of_reply.append((text, logprob, at))
    told = "".join("".join(text.split()) for text, _, _ in reversed(of_reply))
    if at != 0 or told != "".join(reply.split()):
        raise Unmatched("the model's tokens do not spell the reply, so its sentences have no score")
    found: dict[int, list[float]] = {}
    for text, logprob, begins in of_reply:
        is_space = bool(text) and not _visible(text)
        owner = None if is_space or begins == len(owners) else owners[begins]
        if owner is not None:
            found.setdefault(owner, []).append(logprob)
    return [
        (text, len(found[n]), sum(found[n]) / len(found[n]))
        for n, text in enumerate(sentences(reply))
        if n in found
    ]


def _owners(reply: str) -> list[int | None]:
    """The sentence of each visible character; None: it stands between sentences (a bullet)."""
    owners: list[int | None] = []
    at = 0
    for number, text in enumerate(sentences(reply)):
        begins = reply.index(text, at)
        owners += [None] * _visible(reply[at:begins]) + [number] * _visible(text)
        at = begins + len(text)
    return owners + [None] * _visible(reply[at:])


def _visible(text: str) -> int:
    """Number of characters that are no white space."""
    return len("".join(text.split()))
