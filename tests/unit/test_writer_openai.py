"""`OpenAIWriter` against a real HTTP server: requests, retries, errors."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from memos_vllm.errors import WriterUnavailable
from memos_vllm.writer.base import Ask
from memos_vllm.writer.openai import OpenAIWriter

HELLO = [{"role": "user", "content": "Hello"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def completion(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


class Server:
    """Gives its answers one after the other, and repeats the last."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any, dict[str, str]]] = [(200, completion("Hi"), {})]
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, dict(self.headers), body))
                answers = outer.answers
                status, answer, headers = answers.pop(0) if len(answers) > 1 else answers[0]
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def writer_of(url: str, pauses: list[float] | None = None, key: str | None = "secret"):
    waited = pauses if pauses is not None else []
    return OpenAIWriter(url, "small", key, timeout=5.0, pause=waited.append)


def test_an_ask_is_sent_as_a_chat_completion_and_returns_its_text(server: Server) -> None:
    counts: list[int] = []
    ask = Ask(HELLO, 7, temperature=0.3, seed=5, schema=SCHEMA)
    assert writer_of(server.url).write([ask, Ask(HELLO, 8)], counts.append) == ["Hi", "Hi"]
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == "Bearer secret"
    assert body["model"] == "small"
    assert body["messages"] == HELLO
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (7, 0.3, 5)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert "response_format" not in server.asked[1][2]
    assert counts == [1, 2]


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_the_address_may_be_written_in_several_ways(server: Server, ending: str) -> None:
    assert writer_of(server.url + ending).write([Ask(HELLO, 7)], lambda _: None) == ["Hi"]
    assert server.asked[0][0] == "/v1/chat/completions"


def test_without_a_key_no_authorization_is_sent(server: Server) -> None:
    writer_of(server.url, key=None).write([Ask(HELLO, 7)], lambda _: None)
    assert "authorization" not in {name.lower() for name in server.asked[0][1]}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_failures_are_retried_with_longer_pauses(server: Server, status: int) -> None:
    server.answers = [(status, {}, {})] * 3 + [(200, completion("at last"), {})]
    pauses: list[float] = []
    counts: list[int] = []
    assert writer_of(server.url, pauses).write([Ask(HELLO, 7)], counts.append) == ["at last"]
    assert len(pauses) == 3
    assert 0 < pauses[0] <= 0.5 < pauses[2] <= 2.0
    assert counts == [0, 0, 0, 1]  # `done` may stop it between attempts


def test_a_retry_waits_as_long_as_retry_after_says(server: Server) -> None:
    server.answers = [(429, {}, {"retry-after": "3"}), (200, completion("Hi"), {})]
    pauses: list[float] = []
    writer_of(server.url, pauses).write([Ask(HELLO, 7)], lambda _: None)
    assert pauses == [3.0]


def test_a_lasting_failure_is_not_retried(server: Server) -> None:
    server.answers = [(401, {"error": {"message": "no such key"}}, {})]
    with pytest.raises(WriterUnavailable, match="401: no such key"):
        writer_of(server.url).write([Ask(HELLO, 7)], lambda _: None)
    assert len(server.asked) == 1


def test_it_raises_after_the_last_attempt(server: Server) -> None:
    server.answers = [(503, b"upstream is down", {})]
    with pytest.raises(WriterUnavailable, match="503: upstream is down"):
        writer_of(server.url).write([Ask(HELLO, 7)], lambda _: None)
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    "answer", [b"<html>", {}, {"choices": []}, [], completion(None), {"choices": [{"message": 1}]}]
)
def test_an_answer_of_another_form_is_an_error(server: Server, answer: Any) -> None:
    server.answers = [(200, answer, {})]
    with pytest.raises(WriterUnavailable):
        writer_of(server.url).write([Ask(HELLO, 7)], lambda _: None)


def test_a_refused_connection_is_an_error_that_names_the_address(server: Server) -> None:
    server.http.shutdown()
    server.http.server_close()
    pauses: list[float] = []
    with pytest.raises(WriterUnavailable, match=r"127\.0\.0\.1.*does not answer"):
        writer_of(server.url, pauses).write([Ask(HELLO, 7)], lambda _: None)
    assert len(pauses) == 4


@pytest.mark.parametrize(
    "url", ["notaurl", "ftp://127.0.0.1/v1", "http://[::1/v1", "http://a b/v1"]
)
def test_an_invalid_address_is_an_error(url: str) -> None:
    with pytest.raises(WriterUnavailable, match="is no address"):
        writer_of(url).write([Ask(HELLO, 7)], lambda _: None)


def test_the_environments_openai_account_is_not_sent(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "mine")
    writer_of(server.url, key=None).write([Ask(HELLO, 7)], lambda _: None)
    assert "mine" not in " ".join(server.asked[0][1].values())


def test_a_redirect_is_an_error_and_not_followed(server: Server) -> None:
    server.answers = [(307, {}, {"location": f"{server.url}/elsewhere"})]
    with pytest.raises(WriterUnavailable, match="answers 307"):
        writer_of(server.url).write([Ask(HELLO, 7)], lambda _: None)
    assert len(server.asked) == 1


def test_the_key_is_in_no_error_and_no_log_line(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.answers = [(400, {"error": "bad"}, {})]
    with pytest.raises(WriterUnavailable) as caught:
        writer_of(server.url).write([Ask(HELLO, 7)], lambda _: None)
    assert "secret" not in str(caught.value)
    assert "secret" not in caplog.text
