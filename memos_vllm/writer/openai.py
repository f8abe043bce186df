"""A writer behind an OpenAI-compatible address: another model than the served one."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import HttpUrl, TypeAdapter, ValidationError

from memos_vllm import strict_json
from memos_vllm.errors import BadRequest, TooLarge, WriterUnavailable
from memos_vllm.writer.base import Ask

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_EXCERPT_CHARACTERS = 300  # of an error's body, in our own message


class OpenAIWriter:
    """Implements `writer.base.Writer` over `POST {url}/chat/completions`."""

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            url: with its version, `https://…/v1`; a `/chat/completions` at its end may stay.
            timeout: seconds without a byte, for each attempt.
            pause: waits that many seconds between attempts.
        """
        self._base = url.rstrip("/").removesuffix("/chat/completions")
        self._url, self._model = f"{self._base}/chat/completions", model
        self._key, self._timeout, self._pause = api_key, timeout, pause

    def close(self) -> None:
        if "_client" in self.__dict__:
            self._client.close()

    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        """One text for each ask.

        Raises:
            WriterUnavailable: refused, in another form, or still failing after the last attempt.
        """
        texts: list[str] = []
        for ask in asks:
            texts.append(self._ask(ask, lambda: done(len(texts))))
            done(len(texts))
        return texts

    @functools.cached_property
    def _client(self) -> OpenAI:
        from openai import DefaultHttpxClient, OpenAI  # half a second

        try:
            TypeAdapter(HttpUrl).validate_python(self._base)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise WriterUnavailable(f"{self._url} is no address: {problem}") from error
        return OpenAI(
            base_url=self._base,
            api_key=self._key or "none",  # without one, OpenAI's would be read from the environment
            timeout=self._timeout,
            max_retries=0,  # `_ask` retries, and lets its caller stop it in between
            http_client=DefaultHttpxClient(timeout=self._timeout, follow_redirects=False),
        )

    def _ask(self, ask: Ask, alive: Callable[[], None]) -> str:
        from openai import APIConnectionError, APIStatusError

        for attempt in range(_ATTEMPTS):
            is_last = attempt == _ATTEMPTS - 1
            pause = _backoff(attempt)
            try:
                return self._text(self._post(ask))
            except APIConnectionError as error:
                if is_last:
                    cause = error.__cause__ or error
                    raise WriterUnavailable(
                        f"{self._url} does not answer ({type(cause).__name__}: {cause})"
                    ) from error
            except APIStatusError as error:
                if is_last or error.status_code not in _RETRIED:
                    raise WriterUnavailable(
                        f"{self._url} answers {error.status_code}: {_excerpt(error.response.text)}"
                    ) from error
                pause = _retry_after(error) or pause
            alive()
            self._pause(pause)
        raise AssertionError("the last attempt returns or raises")

    def _post(self, ask: Ask) -> str:
        """The body of the answer."""
        from openai import Omit

        body: dict[str, Any] = {
            "model": self._model,
            "messages": ask.messages,
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "seed": ask.seed,
        }
        if ask.schema is not None:
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": ask.schema, "strict": True},
            }
        # The environment may hold an account of OpenAI's: no other server gets to know it.
        headers: dict[str, Any] = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        if not self._key:
            headers["Authorization"] = Omit()
        # Raw, because some servers answer JSON without its content type.
        answer = self._client.chat.completions.with_raw_response.create(
            **body, extra_headers=headers
        )
        text: str = answer.http_response.text
        return text

    def _text(self, body: str) -> str:
        try:
            content = strict_json.parse(body)["choices"][0]["message"]["content"]
        except (BadRequest, TooLarge, LookupError, TypeError) as error:
            raise WriterUnavailable(
                f"{self._url} answers with something else than a chat completion: {_excerpt(body)}"
            ) from error
        if not isinstance(content, str):
            raise WriterUnavailable(f"{self._url} answers without text (is it a refusal?)")
        return content


def _backoff(attempt: int) -> float:
    """Exponential backoff in seconds, up to half of it random, so that writers do not synchronise."""
    pause: float = min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(0.5, 1.0)


def _retry_after(error: APIStatusError) -> float | None:
    """Seconds of `Retry-After`; None: none, a date, or longer than the longest pause."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds <= _LONGEST_PAUSE_SECONDS else None


def _excerpt(body: str) -> str:
    """The message in OpenAI's error envelope; without one, the beginning of the body."""
    try:
        tree = strict_json.parse(body)
    except (BadRequest, TooLarge):
        tree = None
    error = tree.get("error") if isinstance(tree, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    text = message if isinstance(message, str) else body
    return " ".join(text.split())[:_EXCERPT_CHARACTERS]
