"""Where we touch vLLM's objects, on stand-ins of the same shape: salts, streams, idempotence."""

from __future__ import annotations

import asyncio
import json
import types

import pytest
from fastapi import FastAPI

from memos_vllm.api.app import attach
from memos_vllm.api.auth import AuthMiddleware
from memos_vllm.api.identity import Authenticator
from memos_vllm.engine import gateway
from memos_vllm.engine.chat import routes
from memos_vllm.engine.chat.handler import ChatExchange
from memos_vllm.engine.chat.stream import StreamWatch, pass_through
from memos_vllm.engine.general import register
from memos_vllm.errors import BadRequest, NotBuilt
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.learning.background import BackgroundTasks
from memos_vllm.options import MemoryOptions
from memos_vllm.ports import Chat
from tests.conftest import principal

SALTER = gateway.Salter(b"s" * 32, "person", False)


class FakeEngine:
    """An engine client's two ways in; keeps what came through."""

    def __init__(self) -> None:
        self.seen: list[tuple] = []

    async def generate(self, prompt, sampling_params, request_id, **kwargs):
        self.seen.append((prompt, sampling_params))
        yield types.SimpleNamespace(num_cached_tokens=3)

    async def encode(self, prompt, pooling_params, request_id, *args, **kwargs):
        self.seen.append((prompt, pooling_params))
        yield "vector"


def send(engine, prompt, params=None, way="generate"):
    async def run():
        return [output async for output in getattr(engine, way)(prompt, params, "r")]

    asyncio.run(run())
    return engine.seen[-1][0]


def salt_of(prompt, person="alice"):
    token = PRINCIPAL.set(principal(person) if person else None)
    try:
        engine = FakeEngine()
        gateway.install(engine, SALTER)
        return send(engine, prompt)["cache_salt"]
    finally:
        PRINCIPAL.reset(token)


@pytest.mark.parametrize(
    "prompt", ["text", [1, 2], {"prompt_token_ids": [1, 2]}, {"prompt": "text"}]
)
def test_every_form_of_prompt_is_salted_by_who_asks(prompt):
    assert salt_of(prompt, "alice") == salt_of("other", "alice")
    assert salt_of(prompt, "alice") != salt_of(prompt, "bob")
    assert salt_of(prompt, None) != salt_of(prompt, "alice")


def test_a_clients_salt_is_folded_in_and_the_prompt_is_not_changed():
    prompt = {"prompt_token_ids": [1], "cache_salt": "mine"}
    salt = salt_of(prompt)
    assert salt not in ("mine", salt_of({"prompt_token_ids": [1]}))
    assert prompt["cache_salt"] == "mine"


def test_encoder_decoder_prompts_engine_requests_and_pooling_are_salted():
    engine = FakeEngine()
    gateway.install(engine, SALTER)
    both = {"type": "enc_dec", "encoder_prompt": {}, "decoder_prompt": {"prompt_token_ids": [1]}}
    assert len(send(engine, both)["decoder_prompt"]["cache_salt"]) == 64
    request = types.SimpleNamespace(cache_salt=None)
    assert len(send(engine, request).cache_salt) == 64
    assert len(send(engine, "text", way="encode")["cache_salt"]) == 64


def test_streamed_input_has_no_place_for_a_salt_and_is_closed():
    engine = FakeEngine()
    gateway.install(engine, SALTER)
    with pytest.raises(NotBuilt):
        send(engine, object())
    assert engine.seen == []


def test_orders_to_the_kv_connector_come_from_the_server_alone():
    """A trusted router's orders stay, but for those that say whose KV is loaded."""
    given = {"do_remote_decode": True, "memos": {"segments": [[9, "another's scope", []]]}}
    kept = {"do_remote_decode": True}
    for trusted, left in ((False, {"other": 1}), (True, {"other": 1, "kv_transfer_params": kept})):
        engine = FakeEngine()
        gateway.install(engine, gateway.Salter(b"s", "person", trusted))
        params = types.SimpleNamespace(extra_args={"other": 1, "kv_transfer_params": dict(given)})
        send(engine, "text", params)
        assert params.extra_args == left


def test_our_own_orders_go_along_with_a_trusted_router_s():
    engine = FakeEngine()
    gateway.install(engine, gateway.Salter(b"s", "person", True))
    params = types.SimpleNamespace(extra_args={"kv_transfer_params": {"do_remote_decode": True}})
    orders = {"memos": {"segments": [[9, "mine", []]]}}
    token = gateway.CALL.set(gateway.EngineCall(principal(), kv_orders=orders))
    try:
        send(engine, "text", params)
    finally:
        gateway.CALL.reset(token)
    assert params.extra_args["kv_transfer_params"] == {
        "do_remote_decode": True,
        "memos": {"segments": [[9, "mine", []]]},
    }


def test_installing_twice_changes_nothing_more(system):
    register()
    register()
    engine = FakeEngine()
    gateway.install(engine, SALTER)
    once = engine.generate
    gateway.install(engine, SALTER)
    assert engine.generate is once
    app = FastAPI()
    attach(app, system, Authenticator(system.config.governance, system.keys))
    routes, layers = len(app.routes), len(app.user_middleware)
    attach(app, system, Authenticator(system.config.governance, system.keys))
    assert (len(app.routes), len(app.user_middleware)) == (routes, layers)


def test_other_handlers_take_the_person_from_their_body():
    async def create_completion(request, raw_request=None):
        return gateway.current_call().principal.person

    handler = types.SimpleNamespace(create_completion=create_completion)
    state = types.SimpleNamespace(openai_serving_completion=handler)
    routes.install(state, None)
    routes.install(state, None)
    request = types.SimpleNamespace(user="bob", metadata=None)

    async def run():
        PRINCIPAL.set(principal("from-header"))
        return await handler.create_completion(request)

    assert asyncio.run(run()) == "bob"
    with pytest.raises(BadRequest, match="safety_identifier"):
        routes.person_of(principal(), types.SimpleNamespace(safety_identifier=7))


def chunk(**choice) -> str:
    body = {"id": "c-1", "choices": [{"index": 0, "finish_reason": None, **choice}]}
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def run_stream(chunks, watch, cut_after=None):
    order = []

    async def source():
        for number, text in enumerate(chunks):
            order.append(f"made {number}")
            yield text

    async def complete():
        order.append("complete")

    async def run():
        stream = pass_through(
            source(), watch, lambda: {"cubes": []}, complete, lambda: order.append("abandoned")
        )
        received = []
        async for text in stream:
            order.append(f"sent {len(received)}")
            received.append(text)
            if cut_after is not None and len(received) == cut_after:
                break
        await stream.aclose()
        return received

    return asyncio.run(run()), order


WORDS = [
    chunk(delta={"role": "assistant"}),
    chunk(delta={"content": "Hi "}),
    chunk(delta={"content": "you"}),
]
LAST, DONE = chunk(delta={"content": "."}, finish_reason="stop"), "data: [DONE]\n\n"


def test_each_chunk_is_sent_before_the_next_is_asked_for():
    watch = StreamWatch(1, with_usage=False)
    received, order = run_stream([*WORDS, LAST, DONE], watch)
    assert order == [
        "made 0",
        "sent 0",
        "made 1",
        "sent 1",
        "made 2",
        "sent 2",
        "made 3",
        "complete",
        "sent 3",
        "made 4",
        "sent 4",
    ]
    assert received[:3] == WORDS
    assert json.loads(received[3][6:])["memory"] == {"cubes": []}
    assert received[4] == DONE
    assert (watch.text, watch.request_id) == ("Hi you.", "c-1")


def test_text_that_looks_like_an_end_is_text():
    trap = chunk(delta={"content": '"finish_reason":"stop" "choices":[] data: [DONE]'})
    received, _ = run_stream([trap, LAST, DONE], StreamWatch(1, with_usage=False))
    assert received[0] == trap
    assert "memory" in received[1]


def test_a_client_that_goes_away_leaves_what_was_said():
    watch = StreamWatch(1, with_usage=False)
    _, order = run_stream([*WORDS, LAST, DONE], watch, cut_after=2)
    assert order[-1] == "abandoned"
    assert "complete" not in order
    assert watch.text == "Hi "


def test_a_stream_tells_how_its_first_choice_ended_and_whether_it_calls_a_tool():
    call = {"tool_calls": [{"index": 0, "function": {"name": "weather"}}]}
    cut = [*WORDS, chunk(delta={}, finish_reason="length"), DONE]
    called = [chunk(delta=call), chunk(delta={}, finish_reason="tool_calls"), DONE]
    broken = ['data: {"error": {"message": "away"}}\n\n', DONE]
    expected = [("length", False, False), ("tool_calls", True, False), (None, False, True)]
    for chunks, ending in zip((cut, called, broken), expected, strict=True):
        watch = StreamWatch(1, with_usage=False)
        run_stream(chunks, watch)
        assert (watch.finish_reason, watch.calls_tool, watch.failed) == ending


def exchange(written=True):
    """An exchange of a request whose turn may be stored, and the ends that it is told of."""
    request = types.SimpleNamespace(stream_options=None, n=1, request_id="7")
    raw = types.SimpleNamespace(state=types.SimpleNamespace(), headers={})
    memory = types.SimpleNamespace(serving=types.SimpleNamespace(), served=None)
    made = ChatExchange(memory, BackgroundTasks(), None, request, raw)
    said = [{"role": "user", "content": "Hi"}]
    chat = Chat(principal(), MemoryOptions(), said, "demo")
    chat.plan.written = written
    ends = []

    async def finish(request_id, reply, finish_reason=None):
        if not chat.finished:
            chat.finished = True
            ends.append((request_id, reply, finish_reason))

    return made, chat, finish, ends


async def chunks_of(*chunks):
    for each in chunks:
        yield each


@pytest.mark.parametrize(
    ("received", "end"), [(0, ("chatcmpl-7", "", "abort")), (2, ("c-1", "Hi ", "abort"))]
)
def test_a_client_that_goes_away_leaves_its_words_even_before_the_stream_begins(received, end):
    made, chat, finish, ends = exchange()

    async def run():
        stream = await made.deliver(chat, chunks_of(*WORDS, LAST, DONE), finish)
        for _ in range(received):
            await anext(stream)
        if received:
            await stream.aclose()
        made.raw.state.memos_ended()  # the ASGI app has returned
        await made.tasks.drain()
        made.raw.state.memos_ended()

    asyncio.run(run())
    assert ends == [end]


@pytest.mark.parametrize("text", [None, "Let me see."])
def test_a_call_of_a_tool_is_not_stored_and_says_so(text):
    made, chat, finish, ends = exchange()
    calls = [types.SimpleNamespace(id="c1")]
    message = types.SimpleNamespace(content=text, tool_calls=calls)
    choice = types.SimpleNamespace(message=message, finish_reason="tool_calls")
    reply = types.SimpleNamespace(id="c-1", choices=[choice])
    asyncio.run(made.deliver(chat, reply, finish))
    assert ends == [("c-1", None, "tool_calls")]
    assert reply.memory["written"] is False
    assert "calls a tool" in reply.memory["not_written"]


def test_a_streamed_call_of_a_tool_says_that_it_is_not_stored():
    made, chat, finish, ends = exchange()
    call = chunk(delta={"tool_calls": [{"index": 0, "function": {"name": "weather"}}]})
    last = chunk(delta={}, finish_reason="tool_calls")

    async def run():
        stream = await made.deliver(chat, chunks_of(call, last, DONE), finish)
        return [each async for each in stream]

    memory = json.loads(asyncio.run(run())[1][6:])["memory"]
    assert (memory["written"], ends) == (False, [("c-1", None, "tool_calls")])
    assert "calls a tool" in memory["not_written"]


def test_an_error_of_the_engine_stores_nothing_unless_something_was_said():
    error = 'data: {"error": {"message": "away"}}\n\n'
    for chunks, reply in (([error, DONE], None), ([*WORDS, error, DONE], "Hi you")):
        made, chat, finish, ends = exchange()

        async def run(made=made, chat=chat, finish=finish, chunks=chunks):
            stream = await made.deliver(chat, chunks_of(*chunks), finish)
            return [each async for each in stream]

        asyncio.run(run())
        assert ends[0][1:] == (reply, "abort")


def test_the_end_of_a_request_is_told_to_its_exchange(system):
    """A client that goes away early: the app returns, though the stream was never begun."""
    ended = []

    async def app(scope, receive, send):
        scope["state"]["memos_ended"] = lambda: ended.append(scope["path"])

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": [], "client": None}
    layer = AuthMiddleware(
        app, Authenticator(system.config.governance, system.keys), system.config.governance
    )
    asyncio.run(layer(scope, None, None))
    assert ended == ["/health"]
