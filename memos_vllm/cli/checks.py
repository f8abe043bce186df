"""Checks of `memos doctor`: one function per subject, each with the finding and a remedy.

Checks are read-only: they create or migrate no database and create no index.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from memos_vllm.cli.serve import (
    NO_INSTALLATION,
    PLUGIN,
    PLUGIN_GROUPS,
    PLUGINS_VARIABLE,
    installed_vllm,
)
from memos_vllm.config.tree import Config
from memos_vllm.engine import front_ends
from memos_vllm.errors import ConfigError, MemosError

if TYPE_CHECKING:
    from memos_vllm.system import MemorySystem

Status = Literal["ok", "note", "warning", "broken"]
TESTED_VLLM = ((0, 26), (0, 34))
"""From (inclusive), to (exclusive): the range in pyproject.toml."""
CPU_BLOCK_SIZE = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    subject: str
    status: Status
    found: str
    remedy: str = ""


def check_engine(cuda: bool | None) -> Iterator[Check]:
    """Python, vLLM, torch and the plugins.

    Args:
        cuda: result of `has_cuda`.
    """
    yield _python()
    yield _vllm()
    yield _torch(cuda)
    yield from _plugins()
    yield _plugin_allowlist(os.environ.get(PLUGINS_VARIABLE))


def check_memory(system: MemorySystem) -> Iterator[Check]:
    """Database, keys, index and embedder; a failed check does not stop the later ones."""
    database = _guarded("database", lambda: _database(system))
    yield database
    # Neither exists before the first start, and a query would create it.
    if database.status == "ok":
        yield _guarded("keys", lambda: _keys(system))
        yield _guarded("index work", lambda: _index_work(system))
        yield _guarded("audit log", lambda: _audit(system))
    yield _package("chromadb", "pip install 'chromadb>=1.5,<2'")
    yield _guarded("Chroma", lambda: _chroma(system))
    embedder = _guarded("embedder", lambda: _embedder(system))
    yield embedder
    if embedder.status == "ok":
        yield _guarded("embedder's languages", lambda: _languages(system))


def _python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()} ({sys.executable})")


def _vllm() -> Check:
    try:
        name = installed_vllm()
    except ConfigError:
        return Check("vLLM", "broken", "not installed", NO_INSTALLATION)
    release = version(name)
    low, high = (".".join(map(str, bound)) for bound in TESTED_VLLM)
    if not is_tested(release):
        return Check(
            "vLLM",
            "warning",
            f"{name} {release}",
            f"install a tested version: >={low},<{high}",
        )
    return Check("vLLM", "ok", f"{name} {release} (tested: >={low},<{high})")


def is_tested(release: str) -> bool:
    numbers = []
    for part in release.split(".")[:2]:
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits or 0))
    low, high = TESTED_VLLM
    return low <= tuple(numbers) < high


def has_cuda() -> bool | None:
    """Whether torch sees a CUDA device; None: torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return bool(torch.cuda.is_available())


def _torch(cuda: bool | None) -> Check:
    if cuda is None:
        return Check("torch", "broken", "not installed", NO_INSTALLATION)
    return Check("torch", "ok", f"{version('torch')}, {'with' if cuda else 'without'} CUDA")


def _package(name: str, remedy: str) -> Check:
    try:
        return Check(name, "ok", version(name))
    except PackageNotFoundError:
        return Check(name, "broken", "not installed", remedy)


def _plugins() -> Iterator[Check]:
    for group in PLUGIN_GROUPS:
        if entry_points(group=group, name=PLUGIN):
            yield Check(group, "ok", f"entry point `{PLUGIN}` found")
        else:
            yield Check(
                group,
                "broken",
                f"no entry point `{PLUGIN}`: vLLM starts without memory",
                "install memos-vllm into this Python (`pip install -e .` in its checkout)",
            )


def _plugin_allowlist(value: str | None) -> Check:
    if value is None:
        return Check(PLUGINS_VARIABLE, "ok", "not set; `memos serve` sets it")
    if PLUGIN in value.split(","):
        return Check(PLUGINS_VARIABLE, "ok", value)
    return Check(
        PLUGINS_VARIABLE,
        "warning",
        f"{value!r} does not name `{PLUGIN}`",
        f"start with `memos serve`, which adds it, or set {PLUGINS_VARIABLE}={value},{PLUGIN}",
    )


def check_home(config: Config) -> Check:
    existing = config.root
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            "home", "broken", f"{config.root} is not writable", "set `home` to a writable folder"
        )
    note = "" if config.root.exists() else " (created at the first start)"
    return Check("home", "ok", f"{config.root}{note}")


def _database(system: MemorySystem) -> Check:
    # Read the schema revision with Alembic: `MemVault` would migrate the database.
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    import memos_vllm.vault

    shown = system.database.url.render_as_string(hide_password=True)
    if system.database.is_sqlite and not Path(system.database.url.database or "").exists():
        return Check("database", "note", f"{shown} is created at the first start")
    folder = Path(memos_vllm.vault.__file__).parent / "migrations"
    scripts = ScriptDirectory(str(folder))
    with system.database.read() as session:
        current = MigrationContext.configure(session.connection()).get_current_revision()
    if current == scripts.get_current_head():
        return Check("database", "ok", f"{shown}, schema {current}")
    if current is None or current in {script.revision for script in scripts.walk_revisions()}:
        return Check(
            "database",
            "note",
            f"{shown}, schema {current or 'none yet'}",
            "the next command or start migrates it; make a backup first",
        )
    return Check(
        "database",
        "broken",
        f"{shown}, schema {current} is of a newer version",
        "upgrade memos-vllm",
    )


def _keys(system: MemorySystem) -> Check:
    if system.keys.any():
        return Check("keys", "ok", f"on ({len(system.keys.list())} created)")
    if system.config.governance.oidc:
        return Check("keys", "ok", "none; JWTs of `governance.oidc` are needed")
    return Check(
        "keys",
        "warning",
        "off: one tenant `local`, served on loopback only",
        "switch them on with `memos keys create --tenant NAME`",
    )


def _index_work(system: MemorySystem) -> Check:
    stored, ours = system.outbox.index_signature(), system.indexer.signature
    if stored is not None and stored != ours:
        building = system.index_state.building()
        done = (
            f"{building.done} of {building.total} items"
            if building is not None and building.signature == ours
            else "no item yet"
        )
        return Check(
            "index work",
            "warning",
            f"search uses {stored}; the configuration has {ours}, whose vectors {done} has",
            "a running server builds the rest and then uses them; without one, run `memos reindex`, or "
            "configure the embedder that the index was built with",
        )
    waiting = system.outbox.size()
    if waiting:
        return Check(
            "index work", "note", f"{waiting} changes to index", "a running server indexes them"
        )
    return Check("index work", "ok", "no changes to index")


def _audit(system: MemorySystem) -> Check:
    problems = system.audit.health()
    if problems:
        return Check(
            "audit log",
            "warning",
            "; ".join(problems),
            "run `memos audit verify`; where a URL takes the checkpoints, look whether it answers",
        )
    return Check("audit log", "ok", "as long as its newest checkpoints")


def _chroma(system: MemorySystem) -> Check:
    chroma = system.config.chroma
    if chroma.mode == "http":
        system.index.ping()
        return Check("Chroma", "ok", f"answers at {chroma.host}:{chroma.port}")
    folder = system.config.chroma_path
    if not (folder / "chroma.sqlite3").exists():
        return Check("Chroma", "note", f"{folder} is created at the first use")
    if not system.index.claim():
        return Check("Chroma", "ok", f"{folder}, in use by a running server")
    system.index.ping()
    return Check("Chroma", "ok", f"{folder}, answers")


def _embedder(system: MemorySystem) -> Check:
    system.embedder.warm()
    return Check("embedder", "ok", system.config.embedder.model)


def _languages(system: MemorySystem) -> Check:
    from memos_vllm.plaintext.embed.languages import MULTILINGUAL, shares, unrelated

    found = shares(system.embedder.embed)
    foreign = unrelated(found)
    if not foreign:
        return Check("embedder's languages", "ok", f"English, {', '.join(found)}")
    others = f"not related to English: {', '.join(foreign)}"
    kind = "English only" if len(foreign) == len(found) else "some languages"
    return Check(
        "embedder's languages",
        "note",
        f"{kind}; {others}",
        "for memory in other languages set `embedder.model` to a multilingual model, such as "
        + " or ".join(MULTILINGUAL),
    )


def check_front_end(config: Config) -> Check:
    """Whether vLLM would start another server than the one behind memory."""
    flags = [f"--{name.lstrip('-')}" for name, value in config.serve.flags.items() if value]
    problems = front_ends.found(flags, {**config.serve.environment, **os.environ})
    if not problems:
        return Check("front end", "ok", "vLLM's HTTP server, behind memory")
    return Check(
        "front end",
        "broken",
        "; ".join(problems),
        "unset it: that server checks no keys and has no memory; `memos serve` refuses it",
    )


def check_features(config: Config, cuda: bool | None) -> Iterator[Check]:
    yield Check("plaintext memory", "ok", "usable")
    yield _activation(config)
    flags = {key.lstrip("-").replace("_", "-"): value for key, value in config.serve.flags.items()}
    attaches = bool(flags.get("enable-lora"))
    if attaches:
        yield Check("parametric memory", "ok", "usable")
    else:
        yield Check("parametric memory", "note", "off", "start the server with --enable-lora")
    if cuda:
        yield Check("device", "ok", "GPU")
        return
    if flags.get("block-size") == CPU_BLOCK_SIZE:
        yield Check("device", "ok", f"CPU, block-size {CPU_BLOCK_SIZE}")
        return
    yield Check(
        "device",
        "note",
        "CPU: prompts share few blocks of vLLM's default size, 128 tokens",
        f"serve with `--block-size {CPU_BLOCK_SIZE}`, or set it in `serve.flags` (configs/cpu.yaml)",
    )


def _activation(config: Config) -> Check:
    kv = config.kv
    if kv.tier == "none":
        return Check(
            "activation memory",
            "note",
            "off: `kv.tier` is none",
            "set it to fs for KV that survives a restart",
        )
    memory = f"{kv.ram_bytes / 2**30:.1f} GiB in {kv.ram_path}"
    if not kv.ram_path.is_dir():
        memory = f"{kv.ram_path} does not exist, so none in shared memory"
    if kv.tier == "lmcache":
        memory += f"; conversations in LMCache at {kv.lmcache_url}"
    return Check(
        "activation memory",
        "ok",
        f"up to {kv.max_bytes / 2**30:.1f} GiB in {config.kv_path}, {memory}; full attention only "
        "(the server logs if a model's KV cannot be stored)",
    )


_REMEDIES = {
    "database": "start the database, or correct `database.url`",
    "keys": "see `database`",
    "index work": "see `database`",
    "audit log": "see `database`; `governance.audit.checkpoints` is the folder of checkpoints",
    "Chroma": "start it (`chroma run`), or correct `chroma.host` and `chroma.port`; for a damaged "
    "embedded store, move its folder away and run `memos reindex`",
    "embedder's languages": "see `embedder`",
    "embedder": "set `embedder.model` to a downloadable name, or to a folder",
}


def _guarded(subject: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except MemosError as error:
        return Check(subject, "broken", error.message, _REMEDIES[subject])
