"""JSON from outside: bounded, and with one meaning."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm import strict_json
from memos_vllm.api.app import create_app
from memos_vllm.errors import BadRequest, MemosError, TooLarge
from memos_vllm.governance.principal import Role
from memos_vllm.importers.bundle import bundle_source
from memos_vllm.importers.jsonl import jsonl_source
from memos_vllm.importers.locomo import locomo_source
from memos_vllm.importers.openai_chat import openai_chat_source
from memos_vllm.parametric.adapter.packed import unpack, upload_of_folder
from tests.adapters import read_upload

HOSTILE = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep and closed": "[" * 5000 + "]" * 5000,
    "deep in a field": '{"text":' + "[" * 5000 + "]" * 5000 + "}",
    "NaN": '{"text": NaN}',
    "infinity": '{"text": -Infinity}',
    "a float without end": '{"time": 1e999}',
    "10,000 digits": '{"time": ' + "9" * 10_000 + "}",
    "a key twice": '{"text": "a", "text": "b"}',
    "a key twice below": '{"meta": {"a": 1, "\\u0061": 2}}',
    "no UTF-8": b'{"text": "\xff"}',
    "cut": '{"text": "a',
    "escapes without end": '"' + '\\"' * 50_000,
    "quotes": '"' * 100_001,
}


def raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_json_is_refused_at_once(case: str) -> None:
    begun = time.process_time()
    with pytest.raises((BadRequest, TooLarge)):
        strict_json.parse(raw(HOSTILE[case]))
    assert time.process_time() - begun < 1


def test_a_lone_surrogate_is_refused_unless_the_caller_replaces_it() -> None:
    for text in ('{"a": "\\ud800"}', '{"\\udc00": 1}', '["\\ud83d"]'):
        with pytest.raises(BadRequest, match="surrogate"):
            strict_json.parse(text)
    assert strict_json.parse('"\\ud83d\\ude00"') == "\U0001f600"
    assert strict_json.parse('"\\ud800"', keep_surrogates=True) == "\ud800"


def test_size_is_checked_before_anything_is_parsed() -> None:
    with pytest.raises(TooLarge):
        strict_json.parse(b"[" * 11, most_bytes=10)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_plain_json_is_read_as_by_the_standard_library(value: object) -> None:
    text = json.dumps(value)
    assert strict_json.parse(text) == json.loads(text)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60), st.text('[]{}",:\\u0deE+-19truefalsn ', max_size=60).map(str.encode)
    )
)
def test_any_bytes_are_read_as_by_the_standard_library_or_refused(data: bytes) -> None:
    try:
        value = strict_json.parse(data, keep_surrogates=True)
    except MemosError:
        return
    assert value == json.loads(data.decode("utf-8-sig"))


READERS = {
    "a bundle": lambda path: bundle_source(path),
    "JSON lines": lambda path: jsonl_source(path, "alice", 10),
    "a chat export": lambda path: openai_chat_source(path, "alice", 10),
    "LoCoMo": lambda path: locomo_source(path),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", HOSTILE)
def test_every_importer_refuses_hostile_json_with_the_file_in_the_message(
    tmp_path: Path, reader: str, case: str
) -> None:
    file = tmp_path / "hostile.json"
    file.write_bytes(raw(HOSTILE[case]))
    with pytest.raises((BadRequest, TooLarge), match=r"hostile\.json"):
        READERS[reader](file)


@pytest.mark.parametrize("case", HOSTILE)
def test_an_adapter_with_hostile_json_is_refused(tmp_path: Path, case: str) -> None:
    data = raw(HOSTILE[case])
    (tmp_path / "adapter_config.json").write_bytes(data)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises((BadRequest, TooLarge)):
        upload_of_folder(tmp_path)
    with pytest.raises(MemosError):
        unpack(len(data).to_bytes(8, "little") + data)
    with pytest.raises(MemosError):
        read_upload({"adapter_config": {}, "adapter_model": "gICAgICAgIA="}, 1 << 20)


BODIES = {
    "cubes": ("POST", "/v1/memory/cubes"),
    "batch": ("POST", "/v1/memory/cubes/batch"),
    "search": ("POST", "/v1/memory/search"),
    "a change": ("PATCH", "/v1/memory/cubes/x"),
    "feedback": ("POST", "/v1/memory/feedback"),
}


@pytest.mark.parametrize("route", BODIES)
def test_every_body_is_parsed_strictly(system, route: str) -> None:
    method, path = BODIES[route]
    _, key = system.keys.create("acme", Role.ADMIN)
    headers = {
        "Authorization": f"Bearer {key}",
        "X-Memos-User": "alice",
        "Content-Type": "application/json",
    }
    http = TestClient(create_app(system), headers=headers)
    for case, text in HOSTILE.items():
        reply = http.request(method, path, content=raw(text))
        assert reply.status_code in (400, 413), (case, reply.text)
        assert reply.json()["error"]["message"], case


def test_a_repeated_key_in_a_body_stores_nothing(system) -> None:
    _, key = system.keys.create("acme", Role.WRITER)
    http = TestClient(
        create_app(system), headers={"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    )
    body = '{"meta": {"name": "a", "name": "b"}, "payload": {"type": "explicit", "content": "x"}}'
    reply = http.post(
        "/v1/memory/cubes", content=body, headers={"Content-Type": "application/json"}
    )
    assert reply.status_code == 400
    assert "'name' occurs twice" in reply.json()["error"]["message"]
    assert http.get("/v1/memory/cubes").json()["cubes"] == []


@pytest.mark.parametrize(
    "cursor",
    [
        "W0luZmluaXR5LCAieCJd",
        "WzFlOTk5LCAieCJd",
        "Wzk5OTk5OTk5OTk5OTk5OTk5OTksICJ4Il0=",
        "W10=",
        "!!",
        "W1tbW1tb",
    ],
)
def test_a_forged_cursor_is_refused(system, cursor: str) -> None:
    _, key = system.keys.create("acme", Role.WRITER)
    http = TestClient(
        create_app(system), headers={"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    )
    assert http.get("/v1/memory/cubes", params={"cursor": cursor}).status_code == 400
