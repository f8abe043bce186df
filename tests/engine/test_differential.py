"""With memory off, the plugin's server answers byte for byte like a server without the plugin."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from tests.engine.harness import CONTEXT, MODEL, Server, events, without_time

_TOOL_ID = re.compile(r"chatcmpl-tool-\w+")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PARTS = [{"type": "text", "text": "Name one city."}, {"type": "text", "text": "Only one."}]
# The tokenizer makes at least one token of each of these words.
TOO_LONG = "word " * (CONTEXT + 100)

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stop strings": {"stop": ["a", "."]},
    # In one step or in two, which differ in bfloat16: `top_k` leaves nothing to sampling.
    "two choices": {"n": 2, "temperature": 0.8, "top_k": 1, "seed": 7},
    "log-probabilities": {"logprobs": True, "top_logprobs": 3},
    "tools": {"tools": TOOLS, "tool_choice": "auto"},
    "a named tool": {
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "max_tokens": 24,
    },
    "a JSON schema": {"response_format": SCHEMA, "max_tokens": 24},
    "content in parts": {"messages": [{"role": "user", "content": PARTS}]},
    "a system message and history": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Name a river."},
        ]
    },
    "an unknown model": {"model": "no-such-model"},
    "too long a prompt": {"messages": [{"role": "user", "content": TOO_LONG}]},
    "max_tokens beyond the context": {"max_tokens": CONTEXT + 1},
    "a bad role": {"messages": [{"role": 7, "content": "x"}]},
    "no messages": {"messages": None},
    "negative n": {"n": -1},
    "both token limits": {"max_completion_tokens": 3},
}


def ask(server: Server, key: str | None, body: dict[str, Any]) -> httpx.Response:
    """The same bytes to both: vLLM without the plugin ignores `memory`, as any unknown field."""
    tree = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Name one city."}],
        "max_tokens": 8,
        "temperature": 0,
        "memory": {"enabled": False},
        "user": "differential",
        **body,
    }
    if tree["messages"] is None:
        del tree["messages"]
    with server.http(key) as http:
        return http.post("/v1/chat/completions", json=tree, headers={"X-Request-Id": "the-same-id"})


@pytest.mark.parametrize("case", CASES)
def test_a_reply_is_the_same(server, bare, keys, case):
    ours, theirs = ask(server, keys.acme, CASES[case]), ask(bare, None, CASES[case])
    assert ours.status_code == theirs.status_code
    assert without_time(ours.text) == without_time(theirs.text)
    assert _shape(ours) == _shape(theirs)
    assert "x-memos-cubes" not in ours.headers


@pytest.mark.parametrize("case", [*list(CASES)[:9], "an unknown model", "too long a prompt"])
def test_a_stream_is_the_same_chunk_by_chunk(server, bare, keys, case):
    body = {**CASES[case], "stream": True, "stream_options": {"include_usage": True}}
    ours, theirs = ask(server, keys.acme, body), ask(bare, None, body)
    assert ours.status_code == theirs.status_code
    if ours.status_code == 200:
        assert _stream(events(ours)) == _stream(events(theirs))
        assert len(events(ours)) > 2
    else:
        assert without_time(ours.text) == without_time(theirs.text)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


def test_bad_json_is_the_same_error(server, bare, keys):
    replies = []
    for target, key in ((server, keys.acme), (bare, None)):
        with target.http(key) as http:
            replies.append(
                http.post(
                    "/v1/chat/completions",
                    content=b'{"model": ',
                    headers={"Content-Type": "application/json"},
                )
            )
    assert replies[0].status_code == replies[1].status_code == 400
    assert replies[0].text == replies[1].text


WITHOUT = {"temperature": 0, "memory": {"enabled": False}}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/completions", {"prompt": "One, two,", "max_tokens": 4, **WITHOUT}),
        ("POST", "/tokenize", {"prompt": "One, two,"}),
        ("POST", "/detokenize", {"tokens": [100, 200]}),
        ("GET", "/health", None),
        ("GET", "/version", None),
    ],
)
def test_other_routes_are_the_same(server, bare, keys, method, path, body):
    payload = None if body is None else {"model": MODEL, **body}
    headers = {"X-Request-Id": "the-same-id"}
    with server.http(keys.acme) as ours, bare.http() as theirs:
        reply = ours.request(method, path, json=payload, headers=headers)
        expected = theirs.request(method, path, json=payload, headers=headers)
    assert reply.status_code == expected.status_code == 200
    if reply.text:
        assert without_time(reply.text) == without_time(expected.text)


def _stream(data: list[str]) -> list[Any]:
    """Events sorted by choice, successive text events of a choice merged into one.

    The engine merges tokens itself when its reader is slow, and computes two choices side by side:
    on both servers, borders and order of events depend on time.
    """
    assert data[-1] == "[DONE]"
    parsed = [without_time(_TOOL_ID.sub("chatcmpl-tool", text)) for text in data[:-1]]
    assert not parsed[-1]["choices"], "usage comes last"
    folded: list[Any] = []
    for event in sorted(parsed, key=_choice):
        last = folded[-1] if folded else None
        if last and _is_text(last) and _is_text(event):
            before, choice = last["choices"][0], event["choices"][0]
            if before["index"] == choice["index"]:
                _fold(before, choice)
                continue
        folded.append(event)
    return folded


def _choice(event: dict[str, Any]) -> int:
    """Index of an event's choice; usage, which has none, comes last."""
    return event["choices"][0]["index"] if event["choices"] else len(CASES)


def _is_text(event: Any) -> bool:
    delta = event["choices"][0]["delta"] if event["choices"] else {}
    # An empty delta ends a choice; a slow reader gets it as one event with the text before it.
    return bool(event["choices"]) and delta.keys() <= {"content", "tool_calls"}


def _fold(before: dict[str, Any], choice: dict[str, Any]) -> None:
    old, new = before["delta"], choice["delta"]
    if new.get("content"):
        old["content"] = (old.get("content") or "") + new["content"]
    if new.get("tool_calls"):
        known = old.setdefault("tool_calls", [{"function": {"arguments": ""}}])[0]["function"]
        known["arguments"] = (known.get("arguments") or "") + (
            new["tool_calls"][0]["function"].get("arguments") or ""
        )
    if choice["logprobs"]:
        before["logprobs"]["content"] += choice["logprobs"]["content"]
    before["finish_reason"] = choice["finish_reason"]
    before["stop_reason"] = choice.get("stop_reason")


def _shape(response: httpx.Response) -> list[str]:
    """Keys in their order, which a comparison of dicts ignores."""
    return list(response.json())
