"""Fixtures of unit and engine tests: real databases, a real embedder, real Chroma."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from memos_vllm.config.load import load_config
from memos_vllm.config.tree import Config, EmbedderConfig
from memos_vllm.cube.ids import PersonId, TenantId
from memos_vllm.cube.model import CubePatch, State
from memos_vllm.demo.embedder import demo_embedder_path
from memos_vllm.governance.principal import Principal, Role
from memos_vllm.learning.queue import JobQueue
from memos_vllm.plaintext.embed import encoder
from memos_vllm.system import MemorySystem
from memos_vllm.vault.database import Database
from memos_vllm.vault.jobs import MAX_ATTEMPTS, JobStore
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


def freeze(system: MemorySystem, cube: str, person: str = "alice", tenant: str = "acme") -> None:
    """Set a legal hold, as an admin who acts for a person."""
    admin = principal(person, tenant, Role.ADMIN)
    system.update(admin, cube, CubePatch(state=State.FROZEN, reason="case 7"))


def set_aside(jobs: JobStore, name: str, subject: str, error: str = "ValueError") -> None:
    """Have all attempts of a queued job fail."""
    values = {"name": name, "subject": subject, "error": error, "attempts": MAX_ATTEMPTS}
    with jobs._database.write() as session:
        session.connection().execute(
            sa.text(
                "UPDATE jobs SET state = 'failed', attempts = :attempts, error = :error "
                "WHERE name = :name AND subject = :subject"
            ),
            values,
        )


class FakeQueue(JobQueue):
    """Records jobs without running them: a test calls the handler at the moment that it tests."""

    def submit(self, name: str, subject: str) -> None: ...


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[Callable[[], str]]:
    """A function that creates a database with the schema on the local Postgres; skips the test without
    one."""
    made: list[str] = []

    def make(template: str = "template1") -> str:
        try:
            connection = psycopg.connect(POSTGRES, autocommit=True, connect_timeout=3)
        except psycopg.OperationalError as error:
            pytest.skip(f"no Postgres at {POSTGRES} (MEMOS_TEST_POSTGRES): {error}")
        with connection:
            name = f"memos_test_{uuid.uuid4().hex[:12]}"
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
            made.append(name)
            info = connection.info
            return f"postgresql+psycopg://{info.user}@{info.host}:{info.port}/{name}"

    @functools.cache
    def migrated() -> str:
        url = make()
        database = Database(url)
        database.migrate()
        database.dispose()
        return url.rpartition("/")[2]

    yield lambda: make(migrated())
    if made:
        with psycopg.connect(POSTGRES, autocommit=True) as connection:
            for name in made:
                connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        path = tmp_path / "vault.sqlite"
        path.write_bytes(empty_vault())
        return f"sqlite:///{path}"
    url: str = request.getfixturevalue("postgres_url")()
    return url


@pytest.fixture(autouse=True)
def _logs_reach_pytest() -> Iterator[None]:
    """The plugin gives the package's logger vLLM's handler and level, and ends its propagation."""
    ours = logging.getLogger("memos_vllm")
    handlers, level = list(ours.handlers), ours.level
    logging.root.setLevel(logging.WARNING)  # some libraries change it
    yield
    ours.propagate, ours.handlers[:], ours.disabled = True, handlers, False
    ours.setLevel(level)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make_config(tmp_path)


@pytest.fixture(scope="session", autouse=True)
def _demo_embedder_loads_once() -> Iterator[None]:
    """Loading it takes longer than most tests: all tests of a worker share one."""
    load, loaded = encoder._load, dict[str, Any]()

    def once(config: EmbedderConfig, folder: Path | None) -> Any:
        if folder != demo_embedder_path():
            return load(config, folder)
        key = config.model_dump_json()
        if key not in loaded:
            loaded[key] = load(config, folder)
        return loaded[key]

    encoder._load = once
    yield
    encoder._load = load


@functools.cache
def empty_vault() -> bytes:
    """A database file with the schema and nothing else: migrating takes half a second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vault.sqlite"
        database = Database(f"sqlite:///{path}")
        database.migrate()
        database.dispose()
        return path.read_bytes()


def make_config(home: Path, **overrides: Any) -> Config:
    # In this process: child processes take seconds to start, and nearly every test has both.
    embedder = {"model": str(demo_embedder_path()), "processes": 0}
    embedder |= overrides.pop("embedder", {})
    chroma = {"process": False} | overrides.pop("chroma", {})
    # A deadline that no slow machine exceeds, where a test is not about it.
    prompt = {"deadline_seconds": 20.0} | overrides.pop("prompt", {})
    config = load_config(
        overrides={
            "home": str(home),
            "embedder": embedder,
            "chroma": chroma,
            "prompt": prompt,
            **overrides,
        }
    )
    path = home / "vault.sqlite"
    if config.database_url == f"sqlite:///{path}" and not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        path.write_bytes(empty_vault())
    return config


@pytest.fixture
def system(config: Config) -> Iterator[MemorySystem]:
    opened = MemorySystem(config).open()
    yield opened
    opened.close()
