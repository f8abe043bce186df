"""Rendering of prompts by the served model's own chat template and tokenizer."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

from memos_vllm.engine.chat.token_counts import TokenCounts
from memos_vllm.engine.gateway import current_call
from memos_vllm.engine.kv_plan.planner import Prompt
from memos_vllm.ports import Messages
from memos_vllm.prompt.layout import CLOSING, control_string_breaker
from memos_vllm.scheduler.scheduler import Tokenizer

_MARK = "_memos_chat"


class PromptRenderer:
    """vLLM's renderer of a chat handler, for requests and for prompts of the memory system."""

    method: ClassVar[str] = "render_chat_request"
    """Method of the handler that renders a request."""

    def __init__(self, serving: Any, model_name: str) -> None:
        """Wrap a chat handler.

        Args:
            serving: vLLM's chat handler, before memory is installed in it.
            model_name: the served model's, for prompts without a request.
        """
        from vllm.exceptions import VLLMClientError

        self._refusals = (VLLMClientError, ValueError)
        self._serving = serving
        self._render = getattr(serving, self.method)
        self.model_name = model_name

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The served model's tokenizer, for counting and for breaking up its control strings."""
        inner = self.inner_tokenizer
        added: dict[str, int] = getattr(inner, "get_added_vocab", dict)()
        strings = [*getattr(inner, "all_special_tokens", []), *added]
        return Tokenizer(
            count=TokenCounts(functools.partial(inner.encode, add_special_tokens=False)),
            escape=control_string_breaker(strings),
            context=self._serving.model_config.max_model_len,
        )

    @property
    def inner_tokenizer(self) -> Any:
        """The tokenizer as vLLM has it."""
        return self._serving.renderer.get_tokenizer()

    def install(self) -> None:
        """Make the handler use what was rendered for it already."""
        setattr(self._serving, self.method, self.render)

    async def render(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        """vLLM's rendering of a request, or its ErrorResponse.

        A request that `prompts_of` rendered before is not rendered again.
        """
        call = current_call()
        if call.rendered is not None and call.rendered[0] is request:
            result, call.rendered = call.rendered[1], None
            return result
        return await self._render(request, *args, **kwargs)

    async def rendered(self, request: Any) -> Any:
        """vLLM's rendering of a request: of a chat, (conversation, prompts)."""
        return await self._render(request)

    def prompts_in(self, rendering: Any) -> list[Any] | None:
        """The prompts of a rendering; None: it is an ErrorResponse."""
        return rendering[1] if isinstance(rendering, tuple) else None

    async def prompts_of(self, request: Any) -> list[Any] | None:
        """Prompts that a request renders to; None: the engine refuses it.

        The rendering is kept in the current `EngineCall` for vLLM's handler.
        """
        call = current_call()
        if call.rendered is None or call.rendered[0] is not request:
            try:
                call.rendered = request, await self.rendered(request)
            except self._refusals:  # too long, most likely; the handler raises it again
                call.rendered = None
                return None
        return self.prompts_in(call.rendered[1])

    async def prompt(self, messages: Messages) -> Prompt | None:
        """Prompt of these messages without a request; None: the engine refuses them."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        given: list[Any] = list(messages)
        request = ChatCompletionRequest(messages=given, model=self.model_name)
        try:
            result = await self._render(request)
        except self._refusals:
            return None
        return text_prompt(request, result[1]) if isinstance(result, tuple) else None

    async def plain_head(self) -> str | None:
        """Text that the chat template puts in front of a first user message; None: unknown."""
        plain = await self.prompt([{"role": "user", "content": _MARK}])
        return None if plain is None else plain.text.partition(_MARK)[0]

    async def tail_of(self, question: str) -> list[int] | None:
        """Tokens behind memory at the head of the prompt, up to the reply; None: unknown."""
        system = {"role": "system", "content": _MARK}
        prompt = await self.prompt([system, {"role": "user", "content": question}])
        if prompt is None or _MARK not in prompt.text:
            return None
        tail = CLOSING + prompt.text.partition(_MARK)[2]
        tokens: list[int] = self.inner_tokenizer.encode(tail, add_special_tokens=False)
        return tokens


def text_prompt(request: Any, prompts: Any) -> Prompt | None:
    """Text and tokens of a rendered request; None unless it is one prompt of text alone."""
    if len(prompts) != 1 or not prompts[0].get("prompt") or "mm_kwargs" in prompts[0]:
        return None
    return Prompt(
        prompts[0]["prompt"],
        prompts[0]["prompt_token_ids"],
        getattr(request, "cache_salt", None),
    )
