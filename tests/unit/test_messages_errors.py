"""Errors below `/v1/messages` have Anthropic's envelope, those of vLLM too."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.anthropic_errors import AnthropicErrors
from memos_vllm.api.app import create_app
from memos_vllm.errors import TooLarge, Unavailable, anthropic_type, envelope_on
from memos_vllm.governance.principal import Role

OPENAI = {"error": {"message": "no", "type": "BadRequestError", "param": None, "code": 400}}


def sent(path: str, status: int, *bodies: bytes):
    """What comes out of the middleware in front of an app that answers so."""
    out = []

    async def app(scope, receive, send):
        headers = [(b"content-type", b"application/json"), (b"content-length", b"7")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, body in enumerate(bodies, 1):
            more = number < len(bodies)
            await send({"type": "http.response.body", "body": body, "more_body": more})

    async def send(message):
        out.append(message)

    asyncio.run(AnthropicErrors(app)({"type": "http", "path": path}, None, send))
    return out


def test_an_error_of_vllm_is_translated_below_messages_and_nowhere_else():
    raw = json.dumps(OPENAI).encode()
    start, body = sent("/v1/messages", 400, raw[:9], raw[9:])
    told = json.loads(body["body"])
    assert told == {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    assert (b"content-length", str(len(body["body"])).encode()) in start["headers"]
    assert sent("/v1/chat/completions", 400, raw)[1]["body"] == raw
    assert sent("/v1/messagesx", 400, raw)[1]["body"] == raw


@pytest.mark.parametrize("body", [b"", b"Not Found", b"[1]", b'{"type": "error", "error": "x"}'])
def test_a_body_that_is_no_error_object_stays(body):
    assert sent("/v1/messages", 404, body)[1]["body"] == body


def test_a_reply_passes_as_it_comes():
    assert [m.get("body") for m in sent("/v1/messages", 200, b"a", b"b")][1:] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("key", "status", "kind"),
    [(None, 401, "authentication_error"), ("reader", 403, "permission_error")],
)
def test_the_middleware_refuses_in_the_protocol_of_the_route(system, key, status, kind):
    reader = system.keys.create("acme", Role.READER, scopes=["memory.read"])[1]
    http = TestClient(create_app(system))
    headers = {"x-api-key": reader} if key else {}
    told = http.post("/v1/messages", json={}, headers=headers)
    assert told.status_code == status
    assert told.json()["error"]["type"] == kind
    assert set(http.post("/v1/responses", json={}, headers=headers).json()["error"]) == {
        "message",
        "type",
        "param",
        "code",
    }


def test_each_status_has_a_type_that_anthropics_clients_know():
    kinds = {status: anthropic_type(status) for status in (400, 401, 403, 404, 413, 429, 500, 503)}
    assert len(set(kinds.values())) == len(kinds)
    for error in (TooLarge("big"), Unavailable("away")):
        told = envelope_on("/v1/messages/count_tokens", error)
        assert told["error"]["type"] == anthropic_type(error.status)
