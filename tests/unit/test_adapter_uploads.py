"""Checking processes of uploaded adapters: what a hostile upload costs, and whom."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import safetensors
import torch
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.config.adapters import AdapterChecksConfig
from memos_vllm.errors import TooLarge, Unprocessable
from memos_vllm.governance.principal import Role
from memos_vllm.parametric.adapter.packed import unpack
from memos_vllm.parametric.adapter.uploads import AdapterUploads
from memos_vllm.parsing.pool import REQUEST_ENDED, Cancelled
from tests.adapters import config_of, content_of, small, tensors_of
from tests.unit.leaving import leaves
from tests.unit.test_document_parsers import is_alive, wait_until

LIMIT = 256 << 20


@pytest.fixture
def uploads():
    made = []

    def make(**limits: float) -> AdapterUploads:
        made.append(AdapterUploads(AdapterChecksConfig.model_validate(limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="module")
def slow() -> dict:
    """Some seconds of work: rank 1024, in half precision."""
    shapes = {f"model.layers.{i}.self_attn.q_proj": (4096, 4096) for i in range(2)}
    tensors = {name: each.half() for name, each in tensors_of(shapes, 1024, size=0.001).items()}
    return content_of(tensors, config_of(1024))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_file_of_the_process_is_that_of_torch_byte_for_byte(uploads, dtype) -> None:
    shapes = {f"model.layers.{i}.self_attn.{t}_proj": (8, 16) for i in (1, 0, 10) for t in "vq"}
    tensors = {name: each.to(dtype) for name, each in tensors_of(shapes).items()}
    config = config_of(lora_alpha=7.5, use_rslora=True)
    checked = uploads().read(content_of(tensors, config), LIMIT)
    adapter = unpack(checked.file)
    assert checked.file == adapter.pack()
    assert (checked.config, checked.modules()) == (adapter.config, adapter.modules())
    assert all(torch.equal(adapter.tensors[name], each) for name, each in tensors.items())


def test_one_warm_process_checks_one_upload_after_another(uploads) -> None:
    pool = uploads()
    assert pool.pids == []  # none before the first upload
    pool.read(small(), LIMIT)
    first = pool.pids
    with pytest.raises(Unprocessable, match=r"adapter_config\.r"):
        pool.read(small(r=0), LIMIT)
    pool.read(small(seed=1), LIMIT)
    assert pool.pids == first


def test_this_process_parses_nothing_of_an_upload(system, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("parsed in the server")

    monkeypatch.setattr(safetensors, "deserialize", refuse)
    monkeypatch.setattr("memos_vllm.parametric.adapter.checks.read_config", refuse)
    assert system.uploads.read(small(), LIMIT).config.r == 4


def test_the_process_is_lean_and_has_no_secrets(uploads, monkeypatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE__URL", "postgresql://user:hunter2@db/memos")
    pool = uploads()
    pool.read(small(), LIMIT)
    child = psutil.Process(pool.pids[0])
    assert "MEMOS_DATABASE__URL" not in child.environ()
    assert not any("torch" in each.path or "vllm/" in each.path for each in child.memory_maps())
    assert child.num_threads() == 1


def test_an_upload_over_the_time_limit_is_ended_and_the_next_one_is_checked(uploads, slow) -> None:
    pool = uploads(seconds=0.2)
    with pytest.raises(TooLarge, match=r"adapters\.checks\.seconds") as refused:
        pool.read(slow, LIMIT)
    assert refused.value.param == "payload.content.adapter_model"
    assert pool.pids == []
    assert pool.read(small(), LIMIT)


def test_an_upload_over_the_memory_limit_is_refused_and_the_next_one_is_checked(uploads) -> None:
    pool = uploads(memory_bytes=256 << 20)
    shapes = {f"model.layers.{i}.self_attn.q_proj": (65536, 65536) for i in range(16)}
    with pytest.raises((TooLarge, Unprocessable)):
        pool.read(content_of(tensors_of(shapes, 16, size=0.001), config_of(16)), LIMIT)
    assert pool.read(small(), LIMIT)


def test_an_upload_that_kills_its_process_costs_itself(uploads, slow) -> None:
    pool = uploads()
    pool.read(small(), LIMIT)
    with ThreadPoolExecutor() as threads:
        checking = threads.submit(pool.read, slow, LIMIT)
        time.sleep(0.4)
        os.kill(pool.pids[0], signal.SIGSEGV)
        with pytest.raises(Unprocessable, match="ended its parser"):
            checking.result(20)
    assert pool.read(small(), LIMIT)


def test_the_process_is_killed_when_its_request_has_ended(uploads, slow) -> None:
    pool, gone = uploads(), threading.Event()
    pool.read(small(), LIMIT)
    (pid,) = pool.pids

    def read() -> None:
        REQUEST_ENDED.set(gone)
        pool.read(slow, LIMIT)

    with ThreadPoolExecutor() as threads:
        checking = threads.submit(read)
        time.sleep(0.4)
        gone.set()
        with pytest.raises(Cancelled):
            checking.result(20)
    assert wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (small(r=2), 422, "not of rank 2"),
        ({**small(), "adapter_model": "gICAgICAgIA="}, 422, "is not a safetensors file"),
        ({**small(), "adapter_model": "!!"}, 422, "not base64"),
        ({**small(), "path": "/etc"}, 422, "adapter_config"),
    ],
)
def test_refusals_keep_status_and_envelope(system, content, status, says) -> None:
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    http = TestClient(create_app(system), headers=headers)
    payload = {"type": "parametric", "format": "lora", "content": content}
    reply = http.post("/v1/memory/cubes", json={"payload": payload})
    assert reply.status_code == status
    assert says in reply.json()["error"]["message"]


async def test_a_client_that_goes_away_ends_the_check_of_its_upload(system, slow) -> None:
    """The ASGI request itself: the client disconnects while its adapter is checked."""
    _, key = system.keys.create("acme", Role.WRITER)
    payload = {"type": "parametric", "format": "lora", "content": slow}
    body = json.dumps({"payload": payload}).encode()
    pid = await leaves(
        *(create_app(system), "/v1/memory/cubes", key, "application/json", body),
        pids=lambda: system.uploads.pids,
    )
    assert await asyncio.to_thread(wait_until, lambda: not is_alive(pid))
