"""The connection to LMCache's server: made in the background, thrown away when it fails."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the clients carry vLLM's orders: make venv")

from memos_vllm.engine.lmcache.client import LMCacheError
from memos_vllm.engine.lmcache.link import Link


class FakeClient:
    def __init__(self) -> None:
        self.is_healthy = True
        self.closed = threading.Event()

    def shutdown(self) -> None:
        self.closed.set()
        raise LMCacheError("the server is gone")


def until(condition: Any) -> Any:
    deadline = time.monotonic() + 5
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def test_get_does_not_wait_for_a_missing_server():
    release = threading.Event()

    def connect() -> FakeClient:
        release.wait()
        return FakeClient()

    link = Link(connect, 0.01)
    started = time.monotonic()
    assert link.get() is None
    assert time.monotonic() - started < 1
    release.set()
    assert until(link.get)
    link.close()


def test_connecting_is_tried_again_until_it_succeeds(caplog):
    tries = []

    def connect() -> FakeClient:
        tries.append(0)
        if len(tries) < 5:
            raise LMCacheError("no server") from ConnectionError()
        return FakeClient()

    link = Link(connect, 0.01)
    assert until(link.get)
    assert len(tries) == 5
    logged = [r.message for r in caplog.records if r.message.startswith("LMCache")]
    assert logged == ["LMCache is not used for now: no server", "LMCache is used again"]
    link.close()


def test_a_lost_connection_is_made_again_and_closed():
    link = Link(FakeClient, 0.01)
    first = until(link.get)
    link.lost(first)
    second = until(lambda: (found := link.get()) is not first and found)
    link.lost(first)  # late: it is replaced already
    assert link.get() is second
    second.is_healthy = False
    third = until(link.get)
    assert third is not second
    assert first.closed.wait(5)
    assert second.closed.wait(5)
    link.close()
    assert third.closed.wait(5)
    assert link.get() is None
