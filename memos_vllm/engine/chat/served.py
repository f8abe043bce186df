"""Prompts that the engine served, so that reading a turn continues them instead of repeating them.

A prompt is kept with its person's salt, in this process's memory alone, until the turn was read, until
it is old, or until the engine computed so many tokens since that its KV is gone from the prefix cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from memos_vllm.governance.principal import Principal
from memos_vllm.ports import Messages
from memos_vllm.prompt.messages import text_of

_MOST = 256
_LONGEST_SECONDS = 900.0
_NO_CONTINUATION = ("chat_template", "chat_template_kwargs", "documents", "continue_final_message")
"""Fields of a request that change how its chat template ends a message."""


@dataclasses.dataclass(frozen=True)
class ServedPrompt:
    """The tokens of one answered request, and whose they are."""

    principal: Principal
    client_salt: str | None
    private_salt: str | None
    tokens: Sequence[int]
    """Of the prompt and its reply."""
    said: frozenset[bytes]
    """Digests of the user's messages in it."""
    computed: int = 0
    """Tokens that the engine had computed when it was kept."""
    kept: float = dataclasses.field(default_factory=time.monotonic)


class ServedPrompts:
    """The newest served prompts by request id. Used from several threads: each step is atomic."""

    def __init__(self, capacity_tokens: int) -> None:
        """
        Args:
            capacity_tokens: tokens that the engine's prefix cache holds.
        """
        self._capacity = capacity_tokens
        self._prompts: OrderedDict[str, ServedPrompt] = OrderedDict()
        self._computed = 0

    def keep(self, request_id: str, prompt: ServedPrompt) -> None:
        self._computed += len(prompt.tokens)
        self._prompts[request_id] = dataclasses.replace(prompt, computed=self._computed)
        while len(self._prompts) > _MOST:
            self._prompts.popitem(last=False)

    def passed(self, tokens: int) -> None:
        """Note tokens that the engine computed for a request which is not kept."""
        self._computed += tokens

    def get(self, request_id: str) -> ServedPrompt | None:
        """The prompt of a request; None: unknown, old, or no longer in the prefix cache."""
        prompt = self._prompts.get(request_id)
        if prompt is None:
            return None
        is_old = time.monotonic() - prompt.kept > _LONGEST_SECONDS
        if is_old or self._computed - prompt.computed + len(prompt.tokens) > self._capacity:
            self._prompts.pop(request_id, None)
            return None
        return prompt

    def holds(self, request_id: str, texts: Iterable[str]) -> bool:
        """Whether the request's conversation has these messages of its user."""
        prompt = self.get(request_id)
        return prompt is not None and {digest(text) for text in texts} <= prompt.said

    def forget(self, is_gone: Callable[[str, str], bool]) -> None:
        """Drop the prompts of persons, by tenant and person."""
        for request_id, prompt in list(self._prompts.items()):
            if is_gone(prompt.principal.tenant, prompt.principal.person):
                self._prompts.pop(request_id, None)

    def drop(self, request_id: str) -> None:
        self._prompts.pop(request_id, None)


class ReplyTokens:
    """Collects the tokens of a request's prompt and first reply from the engine's outputs."""

    def __init__(self, streams: bool) -> None:
        """
        Args:
            streams: outputs have the new tokens alone; else the last output has all of them.
        """
        self._streams = streams
        self.prompt: Sequence[int] = ()
        self.reply: list[int] = []

    def add(self, output: Any) -> None:
        self.prompt = getattr(output, "prompt_token_ids", None) or self.prompt
        for completion in getattr(output, "outputs", ()):
            if completion.index == 0:
                fresh = list(completion.token_ids)
                self.reply = self.reply + fresh if self._streams else fresh


def served_prompt(
    request: Any,
    messages: Messages | Sequence[Any],
    tokens: ReplyTokens,
    principal: Principal,
    private_salt: str | None,
) -> ServedPrompt | None:
    """The prompt of an answered request; None: it cannot be continued as it is.

    Args:
        messages: of the client, without memory.
    """
    if any(getattr(request, name, None) for name in _NO_CONTINUATION):
        return None
    if getattr(request, "use_beam_search", False) or not tokens.prompt or not tokens.reply:
        return None
    if not all(_is_text(message) for message in messages):
        return None
    return ServedPrompt(
        principal,
        getattr(request, "cache_salt", None),
        private_salt,
        array("I", [*tokens.prompt, *tokens.reply]),
        frozenset(digest(text_of(m)) for m in messages if m.get("role") == "user"),
    )


def digest(text: str) -> bytes:
    plain = text.replace("\x00", "").strip()
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).digest()[:16]


def _is_text(message: Any) -> bool:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return True
    return all(isinstance(p, dict) and p.get("type") in ("text", "input_text") for p in content)
