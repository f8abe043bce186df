"""A closed loop: each of so many clients holds one chat at a time and asks as soon as it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from benchmarks.serving.arms import Arm
from benchmarks.serving.people import Person

REPLY_TOKENS = 32
_STREAM = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
_TIMEOUT = aiohttp.ClientTimeout(total=900)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one request took, in seconds, and what its reply says of its prompt."""

    ttft: float
    """From sending it to the first content."""
    per_token: float
    whole: float
    prompt_tokens: int
    cached_tokens: int
    degraded: bool


@dataclasses.dataclass
class Slice:
    """One arm at one concurrency, for a few chats."""

    arm: str
    concurrency: int
    start: int
    round: int
    reference: float = 0.0
    """Time of a constant computation before it, in seconds."""
    seconds: float = 0.0
    api_seconds: float = 0.0
    """Processor time of the API process."""
    helper_seconds: float = 0.0
    """Processor time of its helper processes: embedder, index."""
    answers: list[Answer] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Chat:
    person: Person
    number: int

    @property
    def session(self) -> str:
        return f"{self.person.name}-chat-{self.number}"


def run(made: Slice, arm: Arm, chats: Sequence[Chat]) -> Slice:
    """Hold the chats, so many at a time as the slice says, and fill it with what they took."""
    before, began = arm.host.cpu_seconds(), time.perf_counter()
    asyncio.run(_all(made, arm, chats))
    made.seconds = time.perf_counter() - began
    after = arm.host.cpu_seconds()
    made.api_seconds, made.helper_seconds = after[0] - before[0], after[1] - before[1]
    return made


def wake(arm: Arm, person: Person, seconds: float) -> None:
    """Have a server that was stopped answer a short request without memory, which is not measured."""
    asyncio.run(_wake(arm, person, seconds))


async def _wake(arm: Arm, person: Person, seconds: float) -> None:
    body = Arm.body(arm, person, [{"role": "user", "content": "Hello."}], "")
    extra = {"memory": {"enabled": False}} if arm.headers(person) else {}
    until = time.monotonic() + seconds
    timeout = aiohttp.ClientTimeout(total=seconds / 3)
    async with aiohttp.ClientSession(arm.host.url, timeout=timeout) as http:
        while time.monotonic() < until:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                await _ask(http, body | extra | {"max_tokens": 2, **_STREAM}, arm.headers(person))
                return


async def _all(made: Slice, arm: Arm, chats: Sequence[Chat]) -> None:
    waiting = list(reversed(chats))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(arm.host.url, timeout=_TIMEOUT, connector=connector) as http:

        async def client() -> None:
            while waiting:
                await _chat(http, made, arm, waiting.pop())

        async with asyncio.TaskGroup() as clients:
            for _ in range(made.concurrency):
                clients.create_task(client())


async def _chat(http: aiohttp.ClientSession, made: Slice, arm: Arm, chat: Chat) -> None:
    messages: list[dict[str, str]] = []
    for question in chat.person.questions(chat.number):
        messages.append({"role": "user", "content": question})
        body = arm.body(chat.person, messages, chat.session) | {
            "max_tokens": REPLY_TOKENS,
            "ignore_eos": True,
            **_STREAM,
        }
        try:
            answer, text = await _ask(http, body, arm.headers(chat.person))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            made.errors.append(f"{type(error).__name__}: {error}"[:200])
            return
        made.answers.append(answer)
        messages.append({"role": "assistant", "content": text})


async def _ask(
    http: aiohttp.ClientSession, body: dict[str, Any], headers: dict[str, str]
) -> tuple[Answer, str]:
    """(what it took, the reply's text). Raises ValueError for an error in the reply or no text."""
    sent = time.perf_counter()
    first = last = 0.0
    texts: list[str] = []
    usage: dict[str, Any] = {}
    degraded = False
    async with http.post("/v1/chat/completions", json=body, headers=headers) as reply:
        if reply.status != 200:
            raise ValueError(f"{reply.status}: {await reply.text()}")
        degraded = "x-memos-degraded" in reply.headers
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise ValueError(str(event["error"]))
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                if text := choice["delta"].get("content"):
                    last = time.perf_counter()
                    first = first or last
                    texts.append(text)
    if not texts:
        raise ValueError("a reply without text")
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    took = Answer(
        ttft=first - sent,
        per_token=(last - first) / max(usage["completion_tokens"] - 1, 1),
        whole=last - sent,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=cached,
        degraded=degraded,
    )
    return took, "".join(texts)
