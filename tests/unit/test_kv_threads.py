"""Threads beside the engine's in a worker make no team of OpenMP threads of their own.

A second team outnumbers the cores, and libgomp then lets the engine's own threads sleep at each barrier: each decoding
step took a third longer, from the first stored turn on.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from memos_vllm.engine.kv.loading import Loader
from memos_vllm.engine.kv.threads import beside_engine
from memos_vllm.engine.kv.worker_side import WorkerSide
from memos_vllm.engine.lmcache.worker_side import WorkerSide as LMCacheWorkerSide
from tests.unit.test_kv_loading import cache, keeper  # noqa: F401 - fixtures

pytestmark = pytest.mark.usefixtures("engine_of_two_threads")


@pytest.fixture
def engine_of_two_threads(monkeypatch):
    """torch as the CPU worker of vLLM leaves it: two threads, and `torch.set_num_threads` without effect."""
    before, really = torch.get_num_threads(), torch.set_num_threads
    torch.set_num_threads(2)
    torch.zeros(1 << 20).add_(1)  # the team of this thread
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    yield
    really(before)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def check(pool: ThreadPoolExecutor) -> None:
    pool.submit(int).result(10)
    before = threads()
    pool.submit(lambda: torch.zeros(1 << 20).add_(1)).result(10)
    assert threads() == before, "the operator made a team of threads"
    assert pool.submit(torch.get_num_threads).result(10) == 1


def test_the_worker_of_vllm_still_replaces_the_function():
    """Else `torch.set_num_threads` would do."""
    assert "set_num_threads" in CPUWorker.init_device.__code__.co_names


def test_a_thread_without_it_makes_a_team():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result(10)
        before = threads()
        pool.submit(lambda: torch.zeros(1 << 20).add_(1)).result(10)
        assert threads() > before


def test_threads_that_load_and_save_have_no_team(keeper: Any, cache: Any):  # noqa: F811
    worker = WorkerSide(keeper, cache, "", None)
    check(worker._saver)
    check(worker._loads)
    assert torch.get_num_threads() == 2, "the engine's own thread keeps its team"
    worker.close()


def test_threads_that_copy_layers_have_no_team(keeper: Any, cache: Any):  # noqa: F811
    loader = Loader(keeper, cache, lambda piece: piece.name, None, threads=1)
    check(loader._pool)
    loader.close()


def test_threads_that_wait_for_lmcache_have_no_team():
    worker = LMCacheWorkerSide(None)  # type: ignore[arg-type]
    check(worker._loader)
    check(worker._saver)


def test_a_thread_that_has_computed_before_keeps_to_one(monkeypatch):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: torch.zeros(16).add_(1)).result(10)
        pool.submit(beside_engine).result(10)
        check(pool)
