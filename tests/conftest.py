"""Fixtures of unit and engine tests: real databases, a real embedder, real Chroma."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memos_vllm.config.load import load_config
from memos_vllm.config.tree import Config
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.learning.queue import JobQueue
from memos_vllm.system import MemorySystem
from tests import fast, groups

POSTGRES = os.environ.get("MEMOS_TEST_POSTGRES", "postgresql://127.0.0.1:5432/postgres")


def pytest_addoption(parser: pytest.Parser) -> None:
    fast.add_option(parser)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_test = collection_path.name.startswith("test_")
    return (
        True
        if config.getoption("--fast") and is_test and fast.is_left_out(collection_path)
        else None
    )


def pytest_configure() -> None:
    groups.share_cores()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return groups.scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(groups.ENGINE):
            item.add_marker(pytest.mark.engine)
    if config.getoption("--fast"):
        fast.deselect(config, items)
    groups.sort(items)
    config.pluginmanager.register(groups.ServerStopper(items))


def principal(person: str = "alice", tenant: str = "acme", role: Role = Role.WRITER) -> Principal:
    return Principal(TenantId(tenant), role, "test", PersonId(person))


class FakeQueue(JobQueue):
    """Records jobs without running them: a test calls the handler at the moment that it tests."""

    def submit(self, name: str, subject: str) -> None: ...


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[Callable[[], str]]:
    """A function that creates a database on the local Postgres; skips the test without one."""
    made: list[str] = []

    def make() -> str:
        try:
            connection = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
        except psycopg.OperationalError as error:
            pytest.skip(f"no Postgres at {POSTGRES} (MEMOS_TEST_POSTGRES): {error}")
        with connection:
            name = f"memos_test_{uuid.uuid4().hex[:12]}"
            connection.execute(f'CREATE DATABASE "{name}"')
            made.append(name)
            info = connection.info
            return f"postgresql+psycopg://{info.user}@{info.host}:{info.port}/{name}"

    yield make
    if made:
        with psycopg.connect(POSTGRES, autocommit=True) as connection:
            for name in made:
                connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'vault.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")()
    return url


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path)


def make_config(home: Path, **overrides: Any) -> Config:
    # In this process: a child process takes seconds to start, and nearly every test has an embedder.
    embedder = {"model": str(demo_embedder_path()), "processes": 0}
    embedder |= overrides.pop("embedder", {})
    return load_config(overrides={"home": str(home), "embedder": embedder, **overrides})


@pytest.fixture
def system(config: Config) -> Iterator[MemorySystem]:
    opened = MemorySystem(config).open()
    yield opened
    opened.close()
