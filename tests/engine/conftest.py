"""Servers that engine tests share, and their keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from memos_vllm.config.load import load_config
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.engine import harness
from tests.engine.harness import Server
from tests.engine.lmcache import Setup
from tests.engine.tiers import Files

pytest.importorskip("vllm", reason="the engine tests need vLLM: make venv")


harness.FORKS = True
LORA = ("--enable-lora", "--max-loras", "3", "--max-cpu-loras", "4", "--max-lora-rank", "8")


@dataclasses.dataclass(frozen=True)
class Keys:
    acme: str
    acme_reader: str
    acme_admin: str
    globex: str
    limited: str
    """Of a tenant that stores one response."""
    operator: str
    metrics: str
    kv: str
    kv_reader: str
    kv_admin: str
    kv_other: str
    lora: str
    lora_admin: str
    """Activation memory and adapters have tenants of their own: their tests share many cubes."""


OWN_BLOCKS = {"MEMOS__KV__SHARED_BLOCKS": "false"}
"""For tests that see loads by the request of another person."""


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="session")
def keys(homes) -> Keys:
    system = MemorySystem(load_config(overrides={"home": str(homes / "home")})).open()
    made = Keys(
        acme=system.keys.create("acme", Role.WRITER)[1],
        acme_reader=system.keys.create("acme", Role.READER)[1],
        acme_admin=system.keys.create("acme", Role.ADMIN)[1],
        globex=system.keys.create("globex", Role.WRITER)[1],
        limited=system.keys.create("soylent", Role.WRITER)[1],
        operator=system.keys.create("operator", Role.ADMIN)[1],
        metrics=system.keys.create("operator", Role.READER, scopes=["metrics"])[1],
        kv=system.keys.create("initech", Role.WRITER)[1],
        kv_reader=system.keys.create("initech", Role.READER)[1],
        kv_admin=system.keys.create("initech", Role.ADMIN)[1],
        kv_other=system.keys.create("hooli", Role.WRITER)[1],
        lora=system.keys.create("umbrella", Role.WRITER)[1],
        lora_admin=system.keys.create("umbrella", Role.ADMIN)[1],
    )
    system.close()
    return made


@pytest.fixture(scope="session")
def server(homes, keys) -> Iterator[Server]:
    """vLLM's own server module with the plugin, API keys and adapters."""
    settings = {
        "MEMOS__ADAPTERS__MERGE": "auto",
        "MEMOS__GOVERNANCE__LIMITS__TENANTS": "{soylent: {responses: 1}}",
    }
    home = homes / "home"
    with Server(homes, home=home, flags=LORA, environment=settings).running() as running:
        yield running


@pytest.fixture(scope="session")
def bare(homes) -> Iterator[Server]:
    """vLLM without the plugin, with the same flags but LoRA."""
    with Server(homes, home=None).running() as running:
        yield running


@pytest.fixture(scope="session")
def restartable(homes) -> Iterator[Server]:
    """A server without API keys, which tests kill, restart, and damage the files of."""
    folder = homes / "restartable"
    folder.mkdir(exist_ok=True)
    # Tests decide when KV is in shared memory, and load it for another person.
    quiet = {"MEMOS__KV__PREFETCH": "false", **OWN_BLOCKS}
    with Server(folder, home=folder / "home", environment=quiet).running() as running:
        yield running


@pytest.fixture(scope="session")
def files_tier(homes) -> Iterator[Files]:
    """A server that stores the KV of conversations in its own files."""
    folder = homes / "fs"
    folder.mkdir(exist_ok=True)
    made = Files(folder)
    with made.server.running():
        yield made


@pytest.fixture(scope="session")
def lmcache_engine(homes) -> Iterator[Setup]:
    """An engine whose LMCache server may be down; at first it is."""
    pytest.importorskip("lmcache")
    folder = homes / "lmcache"
    folder.mkdir(exist_ok=True)
    made = Setup(folder)
    try:
        with made.server.running():
            yield made
    finally:
        made.lmcache.close()


@pytest.fixture
def lmcache_tier(lmcache_engine) -> Setup:
    """An engine and its running LMCache server."""
    if not lmcache_engine.lmcache.running:
        lmcache_engine.lmcache.start()
    return lmcache_engine
