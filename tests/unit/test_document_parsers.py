"""Parsing processes: what a hostile document costs, and whom."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from fastapi.testclient import TestClient

from memos_vllm.api.app import create_app
from memos_vllm.config.reader import DocumentsConfig
from memos_vllm.errors import BadRequest, TooLarge, Unavailable, Unprocessable
from memos_vllm.governance.principal import Role
from memos_vllm.lifeline import has_ended
from memos_vllm.plaintext.documents.parsers import Cancelled, DocumentParsers
from tests.unit.leaving import leaves

LIMIT = 64 << 20
SLOW = b"<p>a" * 1_500_000  # some seconds of work


@pytest.fixture
def parsers():
    made = []

    def make(**limits: float) -> DocumentParsers:
        made.append(DocumentParsers(DocumentsConfig.model_validate(limits)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def is_alive(pid: int) -> bool:
    try:
        return not has_ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_one_warm_process_reads_one_document_after_another(parsers) -> None:
    pool = parsers()
    assert pool.pids == []  # none before the first document
    assert [item.text for item in pool.read("a.md", b"# A\n\nBoats float.", LIMIT)] == [
        "A\n\nBoats float."
    ]
    first = pool.pids
    assert pool.read("b.txt", b"Oars row.", LIMIT)[0].source == "b.txt"
    assert pool.pids == first


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("a.docx", b"PK", BadRequest),
        ("a.pdf", b"%PDF-1.4", Unprocessable),
        ("a.txt", b" ", Unprocessable),
    ],
)
def test_errors_of_the_reader_reach_the_caller_and_keep_the_process(
    parsers, name, data, error
) -> None:
    pool = parsers()
    pool.read("b.txt", b"Oars row.", LIMIT)
    before = pool.pids
    with pytest.raises(error):
        pool.read(name, data, LIMIT)
    assert pool.pids == before


def test_a_document_over_the_time_limit_is_ended_and_the_next_one_is_read(parsers) -> None:
    pool = parsers(seconds=0.5)
    pool.read("b.txt", b"Oars row.", LIMIT)
    begun = time.monotonic()
    with pytest.raises(TooLarge, match=r"reader\.documents\.seconds"):
        pool.read("a.html", SLOW, LIMIT)
    assert time.monotonic() - begun < 10
    assert pool.pids == []
    assert pool.read("b.txt", b"Oars row.", LIMIT)


def test_a_document_over_the_memory_limit_is_refused_and_the_next_one_is_read(parsers) -> None:
    pool = parsers(memory_bytes=256 << 20)
    with pytest.raises((TooLarge, Unprocessable)):
        pool.read("a.html", b"<b>a" * 8_000_000, LIMIT)
    assert pool.read("b.txt", b"Oars row.", LIMIT)


def test_depth_and_output_are_limited(parsers) -> None:
    pool = parsers(depth=50, output_bytes=100)
    with pytest.raises(TooLarge, match=r"reader\.documents\.depth"):
        pool.read("a.html", b"<div>" * 51 + b"x", LIMIT)
    with pytest.raises(TooLarge, match=r"reader\.documents\.output_bytes"):
        pool.read("a.txt", b"x" * 101, LIMIT)


def test_a_document_that_kills_its_parser_costs_itself(parsers) -> None:
    pool = parsers()
    pool.read("b.txt", b"Oars row.", LIMIT)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(pool.read, "a.html", SLOW, LIMIT)
        time.sleep(0.3)
        os.kill(pool.pids[0], signal.SIGSEGV)
        with pytest.raises(Unprocessable, match="ended its parser"):
            reading.result(20)
    assert pool.read("b.txt", b"Oars row.", LIMIT)


def test_the_process_is_killed_when_its_client_goes_away(parsers) -> None:
    pool, gone = parsers(), threading.Event()
    pool.read("b.txt", b"Oars row.", LIMIT)
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(pool.read, "a.html", SLOW, LIMIT, gone=gone)
        time.sleep(0.3)
        pid = pool.pids[0]
        gone.set()
        with pytest.raises(Cancelled):
            reading.result(20)
    assert wait_until(lambda: not is_alive(pid))


def test_one_tenant_never_takes_all_processes(parsers) -> None:
    pool = parsers(processes=2, wait_seconds=20)
    pool.read("b.txt", b"Oars row.", LIMIT, tenant="other")
    gone = threading.Event()
    with ThreadPoolExecutor(6) as threads:
        attack = [
            threads.submit(pool.read, "a.html", SLOW, LIMIT, tenant="rival", gone=gone)
            for _ in range(4)
        ]
        time.sleep(0.3)
        assert pool.read("b.txt", b"Oars row.", LIMIT, tenant="other")
        assert not any(each.done() for each in attack)
        gone.set()
        assert all(isinstance(each.exception(20), Unavailable) for each in attack)


def test_a_document_waits_for_a_process_and_is_told_when_there_is_none(parsers) -> None:
    pool, gone = parsers(processes=1, wait_seconds=0.2), threading.Event()
    pool.read("b.txt", b"Oars row.", LIMIT)
    with ThreadPoolExecutor() as threads:
        slow = threads.submit(pool.read, "a.html", SLOW, LIMIT, gone=gone)
        time.sleep(0.2)
        with pytest.raises(Unavailable, match="busy"):
            pool.read("b.txt", b"Oars row.", LIMIT)
        gone.set()
        assert isinstance(slow.exception(20), Unavailable)


def test_the_documents_of_one_tenant_that_wait_are_few(parsers) -> None:
    pool, gone = parsers(processes=1, wait_seconds=20), threading.Event()
    with ThreadPoolExecutor(40) as threads:
        waiting = [
            threads.submit(pool.read, "a.html", SLOW, LIMIT, tenant="rival", gone=gone)
            for _ in range(30)
        ]
        assert wait_until(lambda: sum(each.done() for each in waiting) >= 13)
        refused = [each.exception() for each in waiting if each.done()]
        assert all("wait" in str(error) for error in refused)
        gone.set()


def test_a_document_that_took_much_memory_is_not_charged_to_the_next_one(parsers) -> None:
    pool = parsers(memory_bytes=600 << 20)
    for _ in range(4):
        assert pool.read("a.txt", b"word " * 4_000_000, LIMIT)
    assert pool.read("b.txt", b"Oars row.", LIMIT)


def test_the_process_is_lean_has_no_secrets_and_may_open_no_files(parsers, monkeypatch) -> None:
    monkeypatch.setenv("MEMOS_DATABASE__URL", "postgresql://user:hunter2@db/memos")
    pool = parsers()
    pool.read("b.txt", b"Oars row.", LIMIT)
    child = psutil.Process(pool.pids[0])
    assert "MEMOS_DATABASE__URL" not in child.environ()
    assert not any("torch" in each.path or "vllm/" in each.path for each in child.memory_maps())
    assert child.memory_info().rss < 200 << 20
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    assert "Max file size             0 " in limits


PARENT = """
import sys, threading, time
from memos_vllm.config.reader import DocumentsConfig
from memos_vllm.plaintext.documents.parsers import DocumentParsers
pool = DocumentParsers(DocumentsConfig())
pool.read("a.txt", b"Hi", 100)
print(pool.pids[0], flush=True)
if sys.argv[1] == "busy":
    threading.Thread(target=pool.read, args=("a.html", b"<p>a" * 1_500_000, 1 << 26)).start()
time.sleep(60)
"""


@pytest.mark.parametrize("what", ["idle", "busy"])
def test_the_process_ends_with_a_server_that_is_killed(what: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, what], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        time.sleep(0.3)
        server.kill()
        server.wait()
    assert wait_until(lambda: not is_alive(pid), 5)


def test_an_idle_process_outlives_the_thread_that_asked_for_it(parsers) -> None:
    pool = parsers()
    asking = threading.Thread(target=pool.read, args=("b.txt", b"Oars row.", LIMIT))
    asking.start()
    asking.join()
    (pid,) = pool.pids
    time.sleep(0.3)
    assert is_alive(pid)


async def test_a_client_that_goes_away_ends_its_parser(system) -> None:
    """The ASGI request itself: the client disconnects while its document is parsed."""
    _, key = system.keys.create("acme", Role.WRITER)
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.html"\r\n\r\n'
        + SLOW
        + b"\r\n--b--\r\n"
    )
    form = "multipart/form-data; boundary=b"
    pid = await leaves(
        *(create_app(system), "/v1/memory/documents", key, form, body),
        pids=lambda: system.documents.pids,
    )
    assert await asyncio.to_thread(wait_until, lambda: not is_alive(pid))


def test_a_refused_document_is_told_in_the_envelope(system) -> None:
    _, key = system.keys.create("acme", Role.WRITER)
    headers = {"Authorization": f"Bearer {key}", "X-Memos-User": "alice"}
    http = TestClient(create_app(system), headers=headers, raise_server_exceptions=False)
    deep = b"<div>" * 10_000 + b"x"
    reply = http.post("/v1/memory/documents", files={"file": ("a.html", deep)})
    assert reply.status_code == 413
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == ("file", "memory_too_large")
    assert "send the text" in error["message"]
