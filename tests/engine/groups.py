"""Order of the tests, their groups for `pytest -n`, and the end of each server.

A group is a work unit of `--dist loadgroup`: it runs in one worker, so that two workers never start
the same server twice. Long groups come first; unit tests, a group per file, fill the gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

SERVERS = ("kept", "kept_in_fs", "engine_of_lmcache", "scaled", "reading", "bare", "server")
"""Fixtures that start a server. The first one that a test uses names its group."""
ADAPTERS = ("test_adapters.py", "test_learning.py")
"""As long as all other tests of `server` together: a group of their own, on a server of their own."""
ORDER = ("adapters", "server", "kept", "engine_of_lmcache", "kept_in_fs", "reading", "scaled")
NEVER_MET = "test_lmcache.py"
"""First in its group: it begins on an engine that never met its LMCache server."""


def is_engine(item: pytest.Item) -> bool:
    return item.path.parent.name == "engine"


def group_of(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    if mark is not None:
        return str(mark.args[0])
    if not is_engine(item):
        return item.path.name
    used = getattr(item, "fixturenames", ())
    name = next((each for each in SERVERS if each in used), None)
    if name == "server" and item.path.name in ADAPTERS:
        return "adapters"
    return "server" if name == "bare" else name or getattr(item, "originalname", item.name)


def arrange(items: list[pytest.Item]) -> Mapping[str, frozenset[str]]:
    """Mark each test with its group and sort the groups; the servers of each group."""
    servers: dict[str, set[str]] = {}
    for item in items:
        group = group_of(item)
        used = {group, *getattr(item, "fixturenames", ())} & set(SERVERS)
        servers.setdefault(group, set()).update(used)
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group))

    def rank(item: pytest.Item) -> tuple[int, str, bool]:
        group = group_of(item)
        if not is_engine(item):
            return len(ORDER) + 1, "", False  # as collected
        place = ORDER.index(group) if group in ORDER else len(ORDER)
        return place, group, item.path.name != NEVER_MET

    items.sort(key=rank)
    return {group: frozenset(used) for group, used in servers.items()}


class ServerStopper:
    """Stops session-scoped servers after the last test of their group: each holds 4 GB."""

    def __init__(self, servers: Mapping[str, frozenset[str]]) -> None:
        self._servers = servers
        self._running: dict[str, tuple[pytest.FixtureDef[object], pytest.FixtureRequest]] = {}

    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
    ) -> None:
        if fixturedef.argname in SERVERS:
            self._running[fixturedef.argname] = (fixturedef, request)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        if nextitem is not None:
            self._stop(self._running.keys() - self._servers[group_of(nextitem)])

    def _stop(self, names: Iterable[str]) -> None:
        for name in names:
            fixture, request = self._running.pop(name)
            fixture.finish(request)  # type: ignore[arg-type]
