"""A writer behind an OpenAI-compatible address: another model than the one that is served."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from memos_vllm.errors import WriterUnavailable
from memos_vllm.writer.base import Ask

_ATTEMPTS = 5
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_TELLING_CHARACTERS = 300  # of an error's body, in our own message


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
        base = url.rstrip("/").removesuffix("/chat/completions")
        self._url, self._model = f"{base}/chat/completions", model
        self._pause = pause
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(timeout=timeout, headers=headers)

    def close(self) -> None:
        self._http.close()

    def write(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[str]:
        """Raises WriterUnavailable: refused, not understood, or still failing after some attempts."""
        texts: list[str] = []
        for ask in asks:
            texts.append(self._ask(ask, lambda: done(len(texts))))
            done(len(texts))
        return texts

    def _ask(self, ask: Ask, alive: Callable[[], None]) -> str:
        for attempt in range(_ATTEMPTS):
            is_last = attempt == _ATTEMPTS - 1
            pause = _backoff(attempt)
            try:
                response = self._http.post(self._url, json=self._body(ask))
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise WriterUnavailable(f"{self._url} is no address: {error}") from error
            except httpx.TransportError as error:
                if is_last:
                    raise WriterUnavailable(
                        f"{self._url} does not answer ({type(error).__name__}: {error})"
                    ) from error
            else:
                if response.is_success:
                    return self._text(response)
                if is_last or response.status_code not in _PASSING:
                    raise WriterUnavailable(
                        f"{self._url} answers {response.status_code}: {_told(response)}"
                    )
                pause = _asked_pause(response) or pause
            alive()
            self._pause(pause)
        raise AssertionError("the last attempt returns or raises")

    def _body(self, ask: Ask) -> dict[str, Any]:
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
        return body

    def _text(self, response: httpx.Response) -> str:
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise WriterUnavailable(
                f"{self._url} answers with something else than a chat completion: {_told(response)}"
            ) from error
        if not isinstance(content, str):
            raise WriterUnavailable(f"{self._url} answers without text (is it a refusal?)")
        return content


def _backoff(attempt: int) -> float:
    """Doubles, with up to half of it random, so that many writers do not come back at once."""
    pause: float = min(_FIRST_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(0.5, 1.0)


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds of a `Retry-After`; a date in it, or more than we wait, is not heeded."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 < seconds <= _LONGEST_PAUSE_SECONDS else None


def _told(response: httpx.Response) -> str:
    """The error's own message, where it has OpenAI's envelope; else the beginning of the body."""
    try:
        body = response.json()
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else error
    text = message if isinstance(message, str) else response.text
    return " ".join(text.split())[:_TELLING_CHARACTERS]
