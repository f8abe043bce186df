"""Seeded kills of `python -m benchmarks.crash`: of processes and of services, each in one life of a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.crash.runs import Crashes
from benchmarks.crash.services import DATABASE, LMCACHE, Services, missing
from tests.effort import long

SEED = 7


@pytest.fixture(scope="module")
def crashes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    folder: Path = tmp_path_factory.mktemp("crash")
    made = Crashes(folder, SEED)
    with made.server.running():
        made.warm()
        yield made
    made.close()


@pytest.mark.parametrize(("number", "victim"), [(0, "Chroma"), (1, "encoder")])
def test_a_kill_under_load_loses_nothing_acknowledged(
    crashes: Crashes, number: int, victim: str
) -> None:
    row = crashes.run(number, victim)
    assert row["details"] == []
    assert row["facts"]["kept"] > 0


def test_vectors_and_facts_agree_after_all_kills(crashes: Crashes) -> None:
    assert crashes.everything() == []


@pytest.fixture(scope="module")
def on_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashes]:
    """A server on PostgreSQL and LMCache."""
    if (absent := missing()) is not None:
        pytest.skip(absent)
    folder: Path = tmp_path_factory.mktemp("crash-services")
    with Services.running(folder) as services:
        made = Crashes(folder, SEED, services)
        with made.server.running():
            made.warm()
            yield made
        made.close()


@long
@pytest.mark.parametrize(("number", "victim"), [(2, DATABASE), (3, LMCACHE)])
def test_a_killed_service_costs_no_acknowledged_write_and_the_server_recovers(
    on_services: Crashes, number: int, victim: str
) -> None:
    row = on_services.run(number, victim)
    assert row["details"] == []
    assert row["facts"]["kept"] > 0


@long
def test_vectors_and_facts_agree_after_services_were_killed(on_services: Crashes) -> None:
    assert on_services.everything() == []
