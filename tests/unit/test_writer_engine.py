"""The served model as a writer: conversations that it continues, salts, and yielding to persons."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import AsyncIterator
from contextvars import Context
from typing import Any

import pytest

pytest.importorskip("vllm")

from memos_vllm.engine import gateway
from memos_vllm.engine.chat.served import (
    ReplyTokens,
    ServedPrompt,
    ServedPrompts,
    digest,
    served_prompt,
)
from memos_vllm.engine.chat.writer import EngineWriter
from memos_vllm.errors import Unavailable
from memos_vllm.writer.base import Ask
from tests.conftest import principal

ALICE, BOB = principal("alice"), principal("bob")
END = 9


class FakeTokenizer:
    """One token per character; a message ends with `|`."""

    all_special_ids = (END,)

    def apply_chat_template(self, messages: Any, tokenize: bool = True, **_: Any) -> Any:
        text = "".join(f"{m['role'][0]}:{m['content']}|" for m in messages) + "a:"
        return self.encode(text) if tokenize else text

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(char) for char in text]


class FakeEngine:
    """Answers each request with `written`, in two steps; `gate` holds the first step back."""

    def __init__(self, context: int = 10_000) -> None:
        self.seen: list[dict[str, Any]] = []
        self.gate: asyncio.Event | None = None
        self.begun, self.aborted = asyncio.Event(), asyncio.Event()
        self.vllm_config = types.SimpleNamespace(
            scheduler_config=types.SimpleNamespace(policy="fcfs"),
            model_config=types.SimpleNamespace(max_model_len=context),
        )

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **_: Any
    ) -> AsyncIterator[Any]:
        self.seen.append(prompt)
        self.begun.set()
        done = False
        try:
            if self.gate is not None:
                await self.gate.wait()
            yield types.SimpleNamespace(
                num_cached_tokens=3, outputs=[types.SimpleNamespace(index=0, text="written")]
            )
            done = True
        finally:
            if not done:
                self.aborted.set()

    async def encode(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        yield None


class Machine:
    """A loop in a thread, with a salted engine and its writer."""

    def __init__(self, engine: FakeEngine, served: ServedPrompts) -> None:
        self.engine = engine
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.salter = gateway.Salter(b"s" * 32, "person", False)
        gateway.install(engine, self.salter)
        self.writer = EngineWriter(
            engine, FakeTokenizer(), self.salter.in_flight, self.loop, served
        )

    def write(self, *asks: Ask) -> list[str]:
        return self.writer.write(asks, lambda count: None)


@pytest.fixture
def machine() -> Any:
    made: list[Machine] = []

    def make(context: int = 10_000, capacity: int = 10_000) -> Machine:
        made.append(Machine(FakeEngine(context), ServedPrompts(capacity)))
        return made[-1]

    yield make
    for each in made:
        each.loop.call_soon_threadsafe(each.loop.stop)


def kept(said: str = "hello", who: Any = ALICE, tokens: int = 20, **more: Any) -> ServedPrompt:
    given: dict[str, Any] = {"client_salt": None, "private_salt": None} | more
    return ServedPrompt(
        who, tokens=[*range(100, 100 + tokens), END], said=frozenset({digest(said)}), **given
    )


ASK = Ask([{"role": "user", "content": "own"}], 300, after="r1", instruction="note")
TAIL = FakeTokenizer().encode("|u:note|a:")


def test_an_ask_continues_the_served_tokens_with_the_persons_own_salt(machine: Any) -> None:
    one = machine()
    one.writer._served.keep("r1", kept(client_salt="c"))
    assert one.write(ASK) == ["written"]
    (prompt,) = one.engine.seen
    assert prompt["prompt_token_ids"] == [*range(100, 120), *TAIL]
    for who, salt, same in ((ALICE, "c", True), (ALICE, None, False), (BOB, "c", False)):
        context = Context()
        context.run(gateway.CALL.set, gateway.EngineCall(who))
        assert (context.run(one.salter.salt, salt) == prompt["cache_salt"]) is same


def test_a_conversation_is_kept_until_its_turn_was_read(machine: Any) -> None:
    one = machine()
    one.writer._served.keep("r1", kept())
    assert one.writer.continues("r1", ["hello"])
    one.write(ASK)
    assert not one.writer.continues("r1", ["hello"])


@pytest.mark.parametrize("why", ["unknown", "gone", "too long"])
def test_without_the_conversation_the_prompt_is_the_asks_own(machine: Any, why: str) -> None:
    one = machine(context=160 if why == "too long" else 10_000, capacity=100)
    if why != "unknown":
        one.writer._served.keep("r1", kept(tokens=40))
    if why == "gone":
        one.writer._served.keep("r2", kept(tokens=90))
    one.write(ASK)
    (prompt,) = one.engine.seen
    assert prompt["prompt_token_ids"] == FakeTokenizer().encode("u:own|a:")


def test_asks_of_the_exam_share_a_salt_and_those_of_persons_do_not(machine: Any) -> None:
    one = machine()
    own = Ask([{"role": "user", "content": "own"}], 300)
    exam = Ask([{"role": "user", "content": "exam"}], 300, shared=True)
    one.write(own, own, exam, exam)
    salts = [prompt["cache_salt"] for prompt in one.engine.seen]
    assert len(set(salts)) == 3
    assert salts[2] == salts[3]


def test_reading_yields_to_a_request_that_arrives_and_is_begun_again(machine: Any) -> None:
    one = machine()
    texts: list[str] = []

    async def gate() -> None:
        one.engine.gate = asyncio.Event()

    asyncio.run_coroutine_threadsafe(gate(), one.loop).result()
    thread = threading.Thread(target=lambda: texts.extend(one.write(ASK)))
    thread.start()

    async def arrive() -> None:
        await one.engine.begun.wait()
        with one.salter.in_flight:
            await one.engine.aborted.wait()
            assert len(one.engine.seen) == 1, "it waits for the request's end"
        one.engine.gate.set()

    asyncio.run_coroutine_threadsafe(asyncio.wait_for(arrive(), 10), one.loop).result()
    thread.join(10)
    assert texts == ["written"]
    assert len(one.engine.seen) == 2


def test_an_engine_error_reaches_the_reader(machine: Any) -> None:
    one = machine()

    async def broken(*_: Any, **__: Any) -> AsyncIterator[Any]:
        raise Unavailable("the engine is gone")
        yield

    one.engine.generate = broken
    with pytest.raises(Unavailable, match="gone"):
        one.write(ASK)


def test_a_conversation_holds_the_messages_that_its_user_sent() -> None:
    prompts = ServedPrompts(1000)
    prompts.keep("r1", kept(said=" My cat is Miso "))
    assert prompts.holds("r1", ["My cat is Miso"])
    assert not prompts.holds("r1", ["My cat is Miso", "I live in Oslo"])
    assert not prompts.holds("r2", ["My cat is Miso"])


def output(prompt: list[int], *tokens: int, index: int = 0) -> Any:
    completion = types.SimpleNamespace(index=index, token_ids=tokens)
    return types.SimpleNamespace(prompt_token_ids=prompt, outputs=[completion])


def request(**fields: Any) -> Any:
    return types.SimpleNamespace(**{"cache_salt": None} | fields)


def test_the_tokens_of_a_stream_are_joined_and_those_of_a_reply_are_taken_whole() -> None:
    for streams, expected in ((True, [4, 5, 6]), (False, [5, 6])):
        tokens = ReplyTokens(streams)
        tokens.add(output([1, 2], 4))
        tokens.add(output([1, 2], 9, index=1))
        tokens.add(output([1, 2], 5, 6))
        assert (list(tokens.prompt), tokens.reply) == ([1, 2], expected)


@pytest.mark.parametrize(
    ("fields", "content", "is_kept"),
    [
        ({}, "hi", True),
        ({}, [{"type": "text", "text": "hi"}], True),
        ({}, [{"type": "image_url", "image_url": {"url": "data:"}}], False),
        ({"use_beam_search": True}, "hi", False),
        ({"chat_template": "x"}, "hi", False),
        ({"continue_final_message": True}, "hi", False),
    ],
)
def test_requests_that_are_more_than_text_are_not_continued(
    fields: dict[str, Any], content: Any, is_kept: bool
) -> None:
    tokens = ReplyTokens(False)
    tokens.add(output([1, 2], 3))
    messages = [{"role": "user", "content": content}]
    found = served_prompt(request(**fields), messages, tokens, ALICE, None)
    assert (found is not None) is is_kept
    if found is not None:
        assert list(found.tokens) == [1, 2, 3]
