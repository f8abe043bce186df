"""Chats of people through one address, and what each turn says of where it was answered."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import httpx

from benchmarks.routing.named import HEADER
from benchmarks.serving.arms import Ours
from benchmarks.serving.people import Person
from memos_vllm.governance.affinity import HEADER as SESSION

REPLY_TOKENS = 16
_STREAM = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}


@dataclasses.dataclass(frozen=True)
class Turn:
    replica: str
    ttft: float
    """Seconds from sending it to the first content."""
    prompt_tokens: int
    cached_tokens: int


class Chat:
    """One conversation of a person."""

    def __init__(
        self, person: Person, number: int, arm: Ours, sends: str, kept: str | None = None
    ) -> None:
        """
        Args:
            sends: `reply` or `kept`: the session header of the last reply; `person`: the person's id;
                `nothing`.
            kept: header of an earlier chat, for the first turn.
        """
        self.person, self._arm, self._sends = person, arm, sends
        self._session = f"{person.name}-chat-{number}"
        self._messages: list[dict[str, str]] = []
        self.header = person.name if sends == "person" else kept
        """Session header of the next turn."""
        self.turns: list[Turn] = []

    def ask(self, http: httpx.Client, url: str, question: str) -> Turn:
        """One turn.

        Raises:
            httpx.HTTPError: the request failed.
        """
        self._messages.append({"role": "user", "content": question})
        body = self._arm.body(self.person, self._messages, self._session) | _STREAM
        body |= {"max_tokens": REPLY_TOKENS, "ignore_eos": True}
        headers = self._arm.headers(self.person)
        if self.header is not None:
            headers[SESSION] = self.header
        turn, text, header = _streamed(http, url, body, headers)
        if self._sends in ("reply", "kept"):
            self.header = header
        self._messages.append({"role": "assistant", "content": text})
        self.turns.append(turn)
        return turn


def _streamed(
    http: httpx.Client, url: str, body: dict[str, Any], headers: dict[str, str]
) -> tuple[Turn, str, str | None]:
    began, first = time.perf_counter(), None
    text: list[str] = []
    usage: dict[str, Any] = {}
    with http.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
        if reply.status_code != 200:
            reply.read()
            reply.raise_for_status()
        for line in reply.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                if content := choice["delta"].get("content"):
                    first = first or time.perf_counter()
                    text.append(content)
        details = usage["prompt_tokens_details"] or {}
        turn = Turn(
            reply.headers.get(HEADER, ""),
            (first or time.perf_counter()) - began,
            usage["prompt_tokens"],
            details.get("cached_tokens") or 0,
        )
        return turn, "".join(text), reply.headers.get(SESSION)
