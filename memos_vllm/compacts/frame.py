"""A text in a chat as it is served: the tokens in front of it, its own, and those behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from memos_vllm.activation.chain import Part, locate, own_digest
from memos_vllm.errors import Unprocessable
from memos_vllm.parametric.training.weights import Answered, Weights
from memos_vllm.prompt.layout import OPENING, place
from memos_vllm.writer.base import Message

_QUESTION = "?"


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where the text of a cube stands in every chat with it."""

    weights: Weights
    text: str
    """As it is placed in a prompt (`layout.quote_cube`)."""
    head: list[int]
    """Tokens in front of it, without a system message of the client."""
    tokens: list[int]
    """Its own, with the line end behind it."""

    @classmethod
    def of(cls, weights: Weights, text: str) -> Frame:
        """Raises Unprocessable: the chat template cuts the text elsewhere than its own tokens end."""
        messages = place([{"role": "user", "content": _QUESTION}], [text], [])
        prompt = weights.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        tokens = weights.prompt(messages)

        def encode(part: str) -> list[int]:
            found: list[int] = weights.tokenizer.encode(part, add_special_tokens=False)
            return found

        found = locate(
            prompt, tokens, opening=OPENING, parts=[Part("the text", f"{text}\n")], encode=encode
        )
        if not found.ends:
            raise Unprocessable(f"it cannot be cut out of a prompt: {found.problem}")
        return cls(weights, text, tokens[: found.head], tokens[found.head : found.ends[0]])

    @property
    def digest(self) -> str:
        """Digest of its tokens."""
        return own_digest(self.tokens)

    def behind(self, messages: Sequence[Message], answer: str) -> Answered:
        """A chat with the text: the tokens behind it, and the answer's.

        Raises:
            Unprocessable: the beginning of the chat is another.
        """
        whole = self.weights.answered(place(messages, [self.text], []), answer)
        front = [*self.head, *self.tokens]
        if whole.prompt[: len(front)] != front:
            raise Unprocessable("the chat template puts other tokens in front of the text")
        return dataclasses.replace(whole, prompt=whole.prompt[len(front) :])
