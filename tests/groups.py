"""Groups of tests: what runs in one worker under `pytest -n`, in which order, and when servers stop.

A group is a file, or several files that share a server, so that two workers never start the same
server twice. Long groups come first; unit tests fill the gaps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
ENGINE = "tests/engine/"
ORDER = ("adapters", "server", "test_restart.py", "test_replicas.py", "restartable", "lmcache")
"""Longest first. Groups of one engine file come next, then unit tests."""
GROUPS = {
    # As long as all other tests of `server` together: a group, and in two workers a server, apart.
    "test_adapters.py": "adapters",
    "test_learning.py": "adapters",
    "test_activation_faults.py": "restartable",
    "test_audit_reads.py": "restartable",
    "test_secret_rotation.py": "restartable",
    "test_kill.py": "restartable",
    "test_ttft.py": "restartable",
    "test_lmcache.py": "lmcache",
    "test_conversations.py": "test_conversations.py",
    "test_crash.py": "test_crash.py",
    "test_degraded.py": "test_degraded.py",
    "test_embedder_failure.py": "test_embedder_failure.py",
    "test_fairness.py": "test_fairness.py",
    "test_flags.py": "test_flags.py",
    "test_reading.py": "test_reading.py",
    "test_replicas.py": "test_replicas.py",
    "test_restart.py": "test_restart.py",
}
"""Of engine tests by file. All others: `server`."""
SERVERS = ("server", "bare", "restartable", "files_tier", "lmcache_engine")
"""Session-scoped fixtures that start a server."""


def share_cores() -> None:
    """Give this process, its child processes and their servers a share of the cores.

    OpenMP threads that wait for each other spin: more of them than cores slow each other down.
    """
    if WORKERS == 1:
        return
    import torch

    threads = max(1, len(os.sched_getaffinity(0)) // WORKERS)
    torch.set_num_threads(threads)
    os.environ |= {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def group_of(node_id: str) -> str:
    path = node_id.partition("::")[0]
    folder, _, name = path.rpartition("/")
    if f"{folder}/" != ENGINE:
        return path
    if node_id.endswith("[lmcache]"):
        return "lmcache"
    return GROUPS.get(name, "server")


def sort(items: list[pytest.Item]) -> None:
    """Sort tests by group; within a group they stay as collected."""

    def place(item: pytest.Item) -> tuple[int, str]:
        group = group_of(item.nodeid)
        if not item.nodeid.startswith(ENGINE):
            return len(ORDER) + 1, ""
        if group in ORDER:
            # First: it begins on an engine that never met its LMCache server.
            return ORDER.index(group), "" if item.path.name == "test_lmcache.py" else group
        return len(ORDER), group

    items.sort(key=place)


def scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """pytest-xdist's scheduler of whole groups, in the order in which they were collected."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    config.option.loadscopereorder = False
    return GroupScheduling(config, log)


class ServerStopper:
    """Stop servers that the next group does not use: each holds 4 GB."""

    def __init__(self, items: Sequence[pytest.Item]) -> None:
        self._servers: dict[str, set[str]] = {}
        for item in items:
            used = set(getattr(item, "fixturenames", ())) & set(SERVERS)
            self._servers.setdefault(group_of(item.nodeid), set()).update(used)
        self._running: dict[str, tuple[pytest.FixtureDef[Any], pytest.FixtureRequest]] = {}

    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> None:
        if fixturedef.argname in SERVERS:
            self._running[fixturedef.argname] = (fixturedef, request)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if nextitem is None or group_of(nextitem.nodeid) == group_of(item.nodeid):
            return
        for name in self._running.keys() - self._servers[group_of(nextitem.nodeid)]:
            fixture, request = self._running.pop(name)
            fixture.finish(request)  # type: ignore[arg-type]
