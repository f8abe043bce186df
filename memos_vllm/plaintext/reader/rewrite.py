"""Query rewriting: a model makes a follow-up question ("And where does she work?") self-contained.

Search gets both, the original question and the rewritten one: a wrong rewrite adds a few words and
loses nothing.  It costs a short reply before the first token, so it is off by default.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, TooLarge, Unavailable
from memos_vllm.plaintext.reader.query import MemoryQuery, read_text
from memos_vllm.prompt.messages import Message, last_user, text_of
from memos_vllm.prompt.quoting import Escape, quoted
from memos_vllm.writer.base import Ask

log = logging.getLogger(__name__)
_BEFORE = 4
"""Messages before the question that the model sees."""
_LONGEST_CHARACTERS = 600  # of each of them
_TOKENS = 64
_SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string", "maxLength": 200}},
    "required": ["question"],
    "additionalProperties": False,
}
_ASKED = (
    "Below is the end of a conversation, quoted. Write its last message once more so that it can be "
    "understood alone: put names and things in place of words like she, it, there, that one. Add nothing "
    'else. Answer with JSON: {"question": "..."}\n\n'
)
Write = Callable[[Ask], Awaitable[str]]


class Rewriter:
    def __init__(self, write: Write, escape: Escape, seconds: float) -> None:
        """
        Args:
            escape: breaks up the tokenizer's control strings.
            seconds: limit for one rewrite.
        """
        self._write, self._escape, self._seconds = write, escape, seconds

    async def rewritten(self, messages: Sequence[Message], query: MemoryQuery) -> MemoryQuery:
        """The query with the model's question appended.

        It is unchanged where no earlier question exists, or the model does not answer in time.
        """
        position = last_user(messages)
        if not query.text or position is None or last_user(messages[:position]) is None:
            return query
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._write(self._ask(messages[: position + 1]))
        except (TimeoutError, Unavailable) as error:
            log.info("the question is not rewritten: %s", str(error) or "too slow")
            return query
        question = _question_in(answer)
        if question is None or question.casefold() in query.text.casefold():
            return query
        return read_text(f"{query.text}\n{question}")

    def _ask(self, messages: Sequence[Message]) -> Ask:
        talk = [m for m in messages if m.get("role") in ("user", "assistant") and text_of(m)]
        lines = [
            quoted(f"{message['role']}: {text_of(message)[-_LONGEST_CHARACTERS:]}", self._escape)
            for message in talk[-_BEFORE - 1 :]
        ]
        content = _ASKED + "\n".join(lines)
        return Ask([{"role": "user", "content": content}], _TOKENS, schema=_SCHEMA)


def _question_in(answer: str) -> str | None:
    try:
        tree = strict_json.parse(answer)
    except (BadRequest, TooLarge):
        return None
    question = tree.get("question") if isinstance(tree, dict) else None
    return question.strip() or None if isinstance(question, str) else None
