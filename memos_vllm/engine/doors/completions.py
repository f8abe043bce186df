"""`/v1/completions`: a text that the model goes on with, and memory quoted in front of it.

A completion has no roles. The last lines of the prompt are what memory is searched for; the whole memory,
stable and retrieved, stands before the first character of the prompt, so that no form in it (examples,
code, a transcript) is broken up. It is remembered where the client asks for it, as what the person says.
"""

from __future__ import annotations

import functools
from typing import Any

from memos_vllm.engine.chat.door import Door
from memos_vllm.engine.chat.handler import ChatExchange
from memos_vllm.engine.chat.renderer import PromptRenderer
from memos_vllm.engine.gateway import EngineCall
from memos_vllm.errors import BadRequest
from memos_vllm.governance.principal import Principal
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat, Messages

_QUESTION_LINES, _QUESTION_CHARACTERS = 3, 1000


class CompletionsRenderer(PromptRenderer):
    method = "render_completion_request"

    def prompts_in(self, rendering: Any) -> list[Any] | None:
        return rendering if isinstance(rendering, list) else None


class CompletionsMemory(Door):
    method = "create_completion"

    def chat_of(
        self, request: Any, raw: Any, body: Any, principal: Principal, options: MemoryOptions
    ) -> Chat:
        prompt = _text(request.prompt) or ""
        return Chat(
            principal=principal,
            options=options,
            messages=[{"role": "user", "content": prompt}] if prompt else [],
            model_name=request.model or self.renderer.model_name,
            max_reply=request.max_tokens,
            prompt_limit=request.truncate_prompt_tokens,
            store=getattr(body, "store", None) is not False,
            question=question_of(prompt),
            has_speaker=False,
        )

    def exchange(self, request: Any, raw: Any, call: EngineCall) -> ChatExchange:
        return CompletionsExchange(
            self, self.parts.pipeline.tasks, call=call, request=request, raw=raw
        )

    async def remembering(
        self, request: Any, raw: Any, body: Any, options: MemoryOptions, call: EngineCall
    ) -> Any:
        problem = _problem(request)
        if problem is None:
            return await super().remembering(request, raw, body, options, call)
        for name in ("required", "write"):
            if getattr(options, name):
                raise BadRequest(f"`memory.{name}`: {problem}", param=f"memory.{name}")
        chat = self.chat_of(request, raw, body, call.principal, options)
        chat.plan.skipped = chat.plan.not_written = problem
        chat.plan.person = call.principal.person or None
        raw.state.memos_plan = chat.plan
        exchange = self.exchange(request, raw, call)
        reply = await exchange.answer(chat, None)
        return await exchange.deliver(
            chat, reply, functools.partial(self.parts.pipeline.finish, chat)
        )


class CompletionsExchange(ChatExchange):
    continues, prefix = False, "cmpl"

    def placed(self, messages: Messages) -> Any:
        return self.request.model_copy(update={"prompt": messages[0]["content"]})

    @property
    def choices(self) -> int:
        prompt = self.request.prompt
        several = isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
        count: int = self.request.n or 1
        return count * (len(prompt) if several else 1)

    def said_in(self, choice: Any) -> tuple[str, bool]:
        return choice.text, False


def question_of(prompt: str) -> str:
    """The last lines of a prompt that have text."""
    tail = prompt[-_QUESTION_CHARACTERS:]
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return "\n".join(lines[-_QUESTION_LINES:])


def _text(prompt: Any) -> str | None:
    """The prompt, where it is one text."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    return prompt if isinstance(prompt, str) else None


def _problem(request: Any) -> str | None:
    """Why memory cannot stand in front of the prompt; None: it can."""
    if _text(request.prompt) is None or getattr(request, "prompt_embeds", None):
        return "memory is added to one prompt of text, not to a list, token ids or embeddings"
    if request.suffix is not None:
        return "memory is not added to a prompt with `suffix`"
    if request.echo or request.prompt_logprobs is not None:
        return "memory is not added where the reply repeats or scores the prompt (`echo`, `prompt_logprobs`)"
    return None
