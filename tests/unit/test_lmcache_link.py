"""The connection to LMCache's server: looked for in the background, thrown away when it fails."""

from __future__ import annotations

import threading
import time
from typing import Any

from memos_vllm.engine.lmcache.link import Link


class FakeAdapter:
    def __init__(self) -> None:
        self.is_healthy = True
        self.closed = threading.Event()

    def shutdown(self) -> None:
        self.closed.set()
        raise RuntimeError("it would rather not")


def until(condition: Any) -> Any:
    deadline = time.monotonic() + 5
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def test_nobody_waits_for_a_server_that_is_not_there():
    release = threading.Event()

    def connect() -> FakeAdapter:
        release.wait()
        return FakeAdapter()

    link = Link(connect, 0.01)
    started = time.monotonic()
    assert link.get() is None
    assert time.monotonic() - started < 1
    release.set()
    assert until(link.get)
    link.close()


def test_it_is_tried_again_until_it_is_there(caplog):
    tries = []

    def connect() -> FakeAdapter:
        tries.append(0)
        if len(tries) < 5:
            raise ConnectionError("nobody there")
        return FakeAdapter()

    link = Link(connect, 0.01)
    assert until(link.get)
    assert len(tries) == 5
    told = [r.message for r in caplog.records if r.message.startswith("LMCache")]
    assert told == ["LMCache is not used for now: nobody there", "LMCache is used again"]
    link.close()


def test_what_is_lost_is_made_again_and_closed():
    link = Link(FakeAdapter, 0.01)
    first = until(link.get)
    link.lost(first)
    second = until(lambda: (found := link.get()) is not first and found)
    link.lost(first)  # said late: it is gone already
    assert link.get() is second
    second.is_healthy = False
    third = until(link.get)
    assert third is not second
    assert first.closed.wait(5)
    assert second.closed.wait(5)
    link.close()
    assert third.closed.wait(5)
    assert link.get() is None
