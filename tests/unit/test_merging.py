"""Merging of adapters in the background: failures are retried, bugs are logged."""

from __future__ import annotations

import asyncio
import types

import pytest

from memos_vllm.engine.lora import merging
from memos_vllm.engine.lora.merging import Merging
from memos_vllm.errors import AdapterUnavailable

CUBES = (types.SimpleNamespace(cube_id="a"), types.SimpleNamespace(cube_id="b"))


class FakeStore:
    """Folders of adapters that fail to be written."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.attempts = 0

    def name(self, cube):
        return cube.cube_id

    def store_folder(self, cube):
        self.attempts += 1
        raise self.error

    def sweep(self):
        raise AssertionError("nothing was merged")


def attempt(store, times, monkeypatch, pause):
    monkeypatch.setattr(merging, "RETRY_SECONDS", pause)

    async def run():
        merger = Merging(types.SimpleNamespace(), store, "ties", 8)
        for _ in range(times):
            merger.begin(CUBES)
            merger.begin(CUBES)  # while it runs: nothing more
            await asyncio.gather(*merger._tasks.values(), return_exceptions=True)

    asyncio.run(run())
    return store.attempts


@pytest.mark.parametrize(
    "error", [AdapterUnavailable("away"), OSError("full"), TypeError("a bug")], ids=repr
)
def test_a_merge_that_failed_is_tried_again_after_a_pause(error, monkeypatch):
    assert attempt(FakeStore(error), 3, monkeypatch, pause=0.0) == 3
    assert attempt(FakeStore(error), 3, monkeypatch, pause=60.0) == 1


def test_a_bug_is_logged_with_its_traceback_and_a_failure_with_one_line(monkeypatch, caplog):
    attempt(FakeStore(AdapterUnavailable("away")), 1, monkeypatch, pause=0.0)
    attempt(FakeStore(TypeError("a bug")), 1, monkeypatch, pause=0.0)
    failure, bug = caplog.records
    assert (failure.levelname, failure.exc_info) == ("WARNING", None)
    assert bug.levelname == "ERROR"
    assert bug.exc_info[0] is TypeError
