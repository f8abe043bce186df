"""Where memory stands in the bodies of each protocol, on vLLM's own models of them."""

from __future__ import annotations

import asyncio
import json
import types

import pytest

pytest.importorskip("vllm")

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.openai.responses.utils import construct_input_messages

from memos_vllm.engine.chat.handler import ChatExchange, ChatMemory
from memos_vllm.engine.doors import items
from memos_vllm.engine.doors.completions import _problem, question_of
from memos_vllm.engine.doors.messages import _with_memory_events, with_memory
from memos_vllm.engine.doors.responses import ResponsesExchange, Thread
from memos_vllm.options import MemoryOptions
from memos_vllm.prompt.layout import place

ASKED = {"role": "user", "content": "What is my dog called?"}
SAID = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello.", "annotations": []}],
}
CALL = {"type": "function_call", "call_id": "c1", "name": "now", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
}
PARTS = {
    "role": "user",
    "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"},
    ],
}


def prompt_of(given, before=(), instructions=None):
    """vLLM's chat messages of a request with memory in it."""
    body = {"model": "demo", "input": given, "instructions": instructions, "memory": {}}
    request = ResponsesRequest.model_validate(json.loads(json.dumps(body)))
    new = items.items_of(body["input"])
    thread = Thread(new, [*items.continued(before), *new], instructions, None, None, None)
    exchange = ResponsesExchange(
        None, None, call=None, request=request, raw=None, thread=thread, body=body, store=None
    )
    placed = place(thread.messages, ["STABLE"], ["FOUND"])
    rendered = exchange.placed(placed)
    assert rendered.request_id == request.request_id
    return construct_input_messages(
        request_instructions=rendered.instructions, request_input=rendered.input
    )


def test_memory_for_a_reply_that_is_continued_stands_in_front_of_its_question():
    begun = {"role": "assistant", "content": "Rex."}
    body = {"messages": [ASKED, begun], "add_generation_prompt": False}
    for continues, searched in ((True, [ASKED]), (False, [ASKED, begun])):
        request = ChatCompletionRequest.model_validate(
            {**body, "model": "demo", "continue_final_message": continues}
        )
        memory = ChatMemory(types.SimpleNamespace(create_chat_completion=None), None, None)
        chat = memory.chat_of(request, None, request, None, MemoryOptions())
        assert list(chat.messages) == searched
        exchange = ChatExchange(memory, None, call=None, request=request, raw=None)
        rendered = exchange.placed(place(chat.messages, [], ["FOUND"]))
        assert [message["role"] for message in rendered.messages] == ["user", "assistant"]
        assert text_at(rendered.messages, "FOUND") == [0]
        assert rendered.messages[1] == begun


def text_at(messages, word) -> list[int]:
    return [n for n, message in enumerate(messages) if word in str(message.get("content"))]


def test_a_text_gets_both_blocks_and_instructions_the_stable_one():
    alone = prompt_of("What is my dog called?")
    assert len(alone) == 1
    assert alone[0]["content"].endswith("What is my dog called?")
    assert text_at(alone, "STABLE") == text_at(alone, "FOUND") == [0]
    led = prompt_of("What is my dog called?", instructions="Be kind.")
    assert led[0]["content"].startswith("Be kind.")
    assert (text_at(led, "STABLE"), text_at(led, "FOUND")) == ([0], [1])


def test_what_was_stored_stands_before_what_is_new_and_memory_before_the_question():
    messages = prompt_of([ASKED], before=[{"role": "user", "content": "Hi."}, SAID])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert (text_at(messages, "STABLE"), text_at(messages, "FOUND")) == ([0], [2])
    assert messages[1]["content"] == "Hello."


def test_calls_of_tools_reasoning_and_images_stay_as_they_are():
    messages = prompt_of([ASKED, THOUGHT, CALL, RESULT])
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["function"]["name"] == "now"
    assert messages[2]["content"] == "noon"
    pictured = prompt_of([PARTS])[0]["content"]
    assert "FOUND" in pictured[0]["text"]
    assert pictured[1]["type"] == "input_image"


def test_an_empty_reply_in_a_stored_conversation_is_left_out():
    messages = prompt_of([ASKED], before=[ASKED, {**SAID, "content": []}])
    assert [message["role"] for message in messages] == ["user", "user"]


def test_a_turn_of_tools_has_the_calls_of_all_its_results():
    from memos_vllm.plaintext.reader.tools import tool_traces

    other = {**CALL, "call_id": "c2", "name": "where"}
    both = [ASKED, CALL, other, RESULT, {**RESULT, "call_id": "c2", "output": "here"}]
    traces = tool_traces(items.messages_of(both))
    assert [(trace["name"], trace["result"]) for trace in traces] == [
        ("now", "noon"),
        ("where", "here"),
    ]


def test_text_and_calls_of_an_output():
    assert items.text_of_output([THOUGHT, SAID]) == "Hello."
    assert not items.calls_tool([SAID])
    assert items.calls_tool([SAID, CALL])


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("", ""),
        ("One line", "One line"),
        ("a\nb\n\nc\n  \nd\n", "b\nc\nd"),
        ("x" * 5000, "x" * 1000),
    ],
)
def test_the_question_of_a_completion_is_its_last_lines(prompt, question):
    assert question_of(prompt) == question


@pytest.mark.parametrize(
    ("body", "has_place"),
    [
        ({"prompt": "text"}, True),
        ({"prompt": ["text"]}, True),
        ({"prompt": ["text", "text"]}, False),
        ({"prompt": [1, 2]}, False),
        ({"prompt": [[1, 2]]}, False),
        ({"prompt": "text", "suffix": "end"}, False),
        ({"prompt": "text", "echo": True}, False),
        ({"prompt": "text", "prompt_logprobs": 0}, False),
    ],
)
def test_one_text_alone_has_a_place_for_memory(body, has_place):
    request = CompletionRequest.model_validate({"model": "demo", **body})
    assert (_problem(request) is None) is has_place


def test_events_of_anthropics_stream_keep_their_form():
    sent = [
        'event: message_start\ndata: {"type":"message_start"}\n\n',
        'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"event: message_stop\\n"}}\n\n',
        'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":1}}\n\n',
        'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ]

    async def events():
        for each in sent:
            yield each

    async def run(state):
        return [event async for event in _with_memory_events(events(), state)]

    told = {"cubes": []}
    received = asyncio.run(run(types.SimpleNamespace(memos_summary=told)))
    assert received[:2] == sent[:2]
    for event, name in zip(received[2:], ("message_delta", "message_stop"), strict=True):
        head, _, data = event.partition("\ndata: ")
        assert head == f"event: {name}"
        assert event.endswith("\n\n")
        assert json.loads(data) == {**json.loads(data), "type": name, "memory": told}
    assert asyncio.run(run(types.SimpleNamespace())) == sent


def test_a_message_with_memory_is_still_vllms_reply():
    from vllm.entrypoints.anthropic.protocol import AnthropicMessagesResponse

    made = with_memory(AnthropicMessagesResponse)
    assert issubclass(made, AnthropicMessagesResponse)
    assert made is with_memory(AnthropicMessagesResponse)


def test_the_installed_vllm_renders_responses_where_memory_expects_it():
    import inspect

    from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses

    from memos_vllm.engine.doors.responses import ResponsesRenderer

    source = inspect.getsource(OpenAIServingResponses)
    assert f"await self.{ResponsesRenderer.method}(" in source
    assert "render_result.engine_input" in source


@pytest.mark.parametrize(
    ("prompt", "count"), [("a", 2), (["a"], 2), (["a", "b"], 4), ([1, 2, 3], 2), ([[1], [2]], 4)]
)
def test_a_stream_of_several_prompts_ends_with_its_last_choice(prompt, count):
    from memos_vllm.engine.doors.completions import CompletionsExchange

    request = types.SimpleNamespace(prompt=prompt, n=2)
    assert CompletionsExchange(None, None, None, request, None).choices == count
