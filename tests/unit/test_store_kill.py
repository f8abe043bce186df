"""MemStore: a process that is killed while it installs, updates or uninstalls leaves all or nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from memos_vllm.memstore.store import MemStore
from memos_vllm.system import MemorySystem
from tests.bundles import ADMIN, NAME, Bundler
from tests.conftest import make_config

FIRST = {f"part {i}": [f"First text {i} of the handbook."] for i in range(12)}
SECOND = {f"part {i}": [f"Second text {i} of the handbook."] for i in range(4, 16)}
CHILD = """
import sys
from pathlib import Path
from memos_vllm.memstore.registry import FolderRegistry
from memos_vllm.memstore.store import MemStore
from memos_vllm.system import MemorySystem
from tests.bundles import ADMIN, NAME
from tests.conftest import make_config

home, act, fingerprint = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
system = MemorySystem(make_config(home)).open()
store, registry = MemStore(system), FolderRegistry(home / "registry")
print("ready", flush=True)
if act == "install":
    store.install(ADMIN, "team", registry, NAME, "1.0.0", publisher=fingerprint)
elif act == "update":
    store.update(ADMIN, registry, NAME)
else:
    store.uninstall(ADMIN, NAME)
print("done", flush=True)
"""
WHOLE = {
    "first": {f"{NAME}:{name}": texts for name, texts in FIRST.items()},
    "second": {f"{NAME}:{name}": texts for name, texts in SECOND.items()},
    "nothing": {},
}
ACTS = {
    "install": ("nothing", "first"),
    "update": ("first", "second"),
    "uninstall": ("first", "nothing"),
}


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_a_kill_leaves_the_version_before_or_the_one_behind(tmp_path, act):
    system = MemorySystem(make_config(tmp_path)).open()
    bundler = Bundler(system, tmp_path)
    bundler.publish("1.0.0", FIRST)
    if act != "install":
        bundler.install("1.0.0")
    if act == "update":
        bundler.publish("1.1.0", SECOND)
    system.close()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), act, bundler.key.public.fingerprint],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(random.Random(act).uniform(0.02, 0.2))
    os.kill(child.pid, signal.SIGKILL)
    child.wait(30)
    system = MemorySystem(make_config(tmp_path)).open()
    try:
        bundler.system, bundler.store = system, MemStore(system)
        before, behind = (WHOLE[each] for each in ACTS[act])
        there = bundler.texts()
        assert there in (before, behind)
        assert (system.bundles.known("acme", NAME) is not None) is (act != "install" or bool(there))
        assert system.audit.verify(ADMIN) == []
        # What was cut short is done again.
        if there == before:
            {"install": bundler.install, "update": bundler.update}.get(
                act, lambda: bundler.store.uninstall(ADMIN, NAME)
            )(*(["1.0.0"] if act == "install" else []))
        assert bundler.texts() == behind
    finally:
        system.close()
